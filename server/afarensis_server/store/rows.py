"""Frozen dataclasses as rows: the columns that bear the names of a value's fields."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Select, Table, select

from .pages import Listed, Page, PageRequest, read_page


class Stored(Listed, Protocol):
    """A dataclass whose table has a column for each field; the id is the primary key."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def project(self) -> str: ...


T = TypeVar("T", bound=Stored)


class Rows(Generic[T]):
    """The statements that all values share."""

    def __init__(self, table: Table, value_type: type[T]) -> None:
        names = [field.name for field in dataclasses.fields(value_type)]
        self.table = table
        #: All columns of a value, in the order of its fields: what `value` takes.
        self.select: Select[Any] = select(*(table.c[name] for name in names))
        self._type: Any = value_type
        self._names = names
        self._fields = attrgetter(*names)
        self._insert = table.insert()

    def value(self, row: Sequence[Any]) -> T:
        value: T = self._type(*row)
        return value

    def insert(self, connection: Connection, *values: T) -> None:
        if values:
            connection.execute(self._insert, [self._parameters(value) for value in values])

    def get(self, connection: Connection, project: str, id: str) -> T | None:  # noqa: A002  the field's own name
        columns = self.table.c
        row = connection.execute(self.select.where(columns.id == id, columns.project == project)).one_or_none()
        return None if row is None else self.value(row)

    def update(self, connection: Connection, value: T) -> bool:
        """Write all fields of a value; False when there is no such row (any more)."""
        columns = self.table.c
        parameters = self._parameters(value)
        del parameters["id"], parameters["project"]
        statement = self.table.update().where(columns.id == value.id, columns.project == value.project)
        return connection.execute(statement.values(parameters)).rowcount > 0

    def delete(self, connection: Connection, project: str, id: str) -> bool:  # noqa: A002  the field's own name
        columns = self.table.c
        return connection.execute(self.table.delete().where(columns.id == id, columns.project == project)).rowcount > 0

    def list_page(
        self,
        connection: Connection,
        project: str,
        request: PageRequest,
        filters: Mapping[str, str | Collection[str] | None] | None = None,
    ) -> Page[T]:
        """A page of the project's values whose columns equal the filters, or are among them; an empty filter is none."""
        wanted = {
            name: [value] if isinstance(value, str) else sorted(value)
            for name, value in (filters or {}).items()
            if value
        }
        statement = self.select.where(
            self.table.c.project == project, *(self.table.c[name].in_(values) for name, values in wanted.items())
        )
        return read_page(connection, project, request, self.table, wanted, statement, self.value)

    def all(self, connection: Connection, statement: Select[Any]) -> list[T]:
        return [self.value(row) for row in connection.execute(statement)]

    def _parameters(self, value: T) -> dict[str, Any]:
        return dict(zip(self._names, self._fields(value), strict=True))
