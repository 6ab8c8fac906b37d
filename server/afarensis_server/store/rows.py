"""Frozen dataclasses as rows: the columns that bear the names of a value's fields."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from itertools import product
from operator import attrgetter
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, Text, bindparam, select, type_coerce

from .pages import Listed, Page, PageRequest, read_page
from .prepared import Prepared, PreparedRow


class Stored(Listed, Protocol):
    """A dataclass whose table has a column for each field; the id is the primary key."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def project(self) -> str: ...


T = TypeVar("T", bound=Stored)

#: Fields that never change.
_KEY = ("id", "project")


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
        # Built once: building a statement costs more than running it.
        row = (table.c.id == bindparam("row_id"), table.c.project == bindparam("row_project"))
        self._insert = Prepared(table.insert(), names)
        self._get = PreparedRow(self.select.where(*row), self.value)
        update = table.update().where(*row).values({name: bindparam(name) for name in names if name not in _KEY})
        self._update = Prepared(update)
        has_status = "status" in names
        self._move = Prepared(update.where(table.c.status == bindparam("row_status"))) if has_status else None
        self._delete = Prepared(table.delete().where(*row))

    def value(self, row: Sequence[Any]) -> T:
        value: T = self._type(*row)
        return value

    def insert(self, connection: Connection, *values: T) -> None:
        self._insert.run_many(connection, [self.parameters(value) for value in values])

    def get(self, connection: Connection, project: str, row_id: str) -> T | None:
        return self._get.find(connection, {"row_id": row_id, "row_project": project})

    def update(self, connection: Connection, value: T) -> bool:
        """Write all fields of a value; False when there is no such row (any more)."""
        return self._update.change(connection, self._changes(value)) > 0

    def move(self, connection: Connection, value: T, status: StrEnum) -> bool:
        """Write all fields of a value whose row has this status; False when there is no such row (any more)."""
        assert self._move is not None, "its values have a status"
        return self._move.change(connection, {**self._changes(value), "row_status": status}) > 0

    def delete(self, connection: Connection, project: str, row_id: str) -> bool:
        return self._delete.change(connection, {"row_id": row_id, "row_project": project}) > 0

    def list_page(
        self,
        connection: Connection,
        project: str,
        request: PageRequest,
        filters: Mapping[str, str | Collection[str] | None] | None = None,
        along: Collection[str] = (),
    ) -> Page[T]:
        """A page of the project's values whose columns equal the filters, or are among them.

        A filter that is None or empty is none. ``along`` names the columns that the index to read along begins with,
        where the database may believe that another one leaves fewer rows.
        """
        wanted = {
            name: [value] if isinstance(value, str) else sorted(value)
            for name, value in (filters or {}).items()
            if value
        }
        # One for each value, since equality keeps the rows of an index in the list's order, and IN does not.
        statements = [
            self.select.where(
                *(
                    self.table.c[name] == value if not along or name in along else _unindexed(self.table.c[name], value)
                    for name, value in zip(("project", *wanted), (project, *chosen), strict=True)
                )
            )
            for chosen in product(*wanted.values())
        ]
        return read_page(connection, project, request, self.table, wanted, statements, self.value)

    def all(
        self, connection: Connection, statement: Select[Any], parameters: Mapping[str, object] | None = None
    ) -> list[T]:
        return [self.value(row) for row in connection.execute(statement, parameters)]

    def parameters(self, value: T) -> dict[str, Any]:
        """The columns of a value by name, as statements take them."""
        return dict(zip(self._names, self._fields(value), strict=True))

    def _changes(self, value: T) -> dict[str, Any]:
        parameters = self.parameters(value)
        parameters["row_id"], parameters["row_project"] = parameters.pop("id"), parameters.pop("project")
        return parameters


def _unindexed(column: Column[Any], value: str) -> ColumnElement[bool]:
    """Equality in words that no index serves, since these are those of a column alone."""
    return type_coerce(column, Text).concat("") == str(value)
