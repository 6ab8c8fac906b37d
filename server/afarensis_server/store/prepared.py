"""Statements of the hot path: written by SQLAlchemy once, then run by the driver itself.

What SQLAlchemy does around each run (contexts, caches, events, results) takes six times as long as SQLite takes for a
small statement. That is worth it nearly everywhere, and not where every few bytes of output are a row, or where every
call begins with one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from sqlalchemy import Boolean, Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.types import TypeDecorator, TypeEngine

from .driver import driver_of

Parameters = Mapping[str, Any]
Statement = Insert | Update | Delete | Select[Any]
T = TypeVar("T")

#: Rows of one statement that are remembered, and characters of each: longer ones are rare, and would add up.
_MOST_KNOWN = 1_024
_MOST_CHARACTERS = 8_192


class Prepared:
    """One statement with parameters by name. Values go through the types of their columns."""

    def __init__(self, statement: Statement, columns: Sequence[str] | None = None) -> None:
        """Nothing is compiled yet.

        Args:
            statement: what to run.
            columns: what an insert takes, in case the statement does not say.
        """
        self._statement = statement
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, parameters: Parameters) -> Any:
        """Run it once; a cursor on what it returns. The driver's own errors come out as they are."""
        compiled = self._for(connection)
        return driver_of(connection).execute(compiled.text, compiled.bind(parameters))

    def change(self, connection: Connection, parameters: Parameters) -> int:
        """Run it once; how many rows it changed."""
        rows: int = self.run(connection, parameters).rowcount
        return rows

    def run_many(self, connection: Connection, parameters: Sequence[Parameters]) -> None:
        """Run it for each of these."""
        compiled = self._for(connection)
        driver = driver_of(connection)
        if len(parameters) == 1:
            driver.execute(compiled.text, compiled.bind(parameters[0]))
        else:
            driver.cursor().executemany(compiled.text, [compiled.bind(each) for each in parameters])

    def _for(self, connection: Connection) -> "_Compiled":
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, self._columns, dialect)
        return compiled


class PreparedRow(Generic[T]):
    """One statement that finds a row or none, with parameters by name, and makes a value of it.

    A row that is as it was when last read gives the same value, so that what is polled is not made anew each time.
    Nobody may change it. Any thread may read.
    """

    def __init__(self, statement: Select[Any], make: Callable[[Sequence[Any]], T]) -> None:
        """Nothing is compiled yet.

        Args:
            statement: what finds the row.
            make: the value of a row, whose columns went through their types.
        """
        self._statement = statement
        self._make = make
        self._compiled: dict[str, tuple[_Compiled, list[Any]]] = {}
        #: The rows that were read last, by the parameters that found them.
        self._known: dict[tuple[Any, ...], tuple[Sequence[Any], T]] = {}

    def find(self, connection: Connection, parameters: Parameters) -> T | None:
        """The row's value. The driver's own errors come out as they are."""
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            readers: list[Any] = [
                column.type.dialect_impl(dialect).result_processor(dialect, None)
                for column in self._statement.selected_columns
            ]
            self._compiled[dialect.name] = _Compiled(self._statement, None, dialect), readers
        compiled, readers = self._compiled[dialect.name]
        cursor = driver_of(connection).execute(compiled.text, compiled.bind(parameters))
        try:
            row = cursor.fetchone()
        finally:
            cursor.close()  # or its snapshot would stay
        if row is None:
            return None
        key = tuple(parameters.values())
        known = self._known.get(key)
        if known is not None and known[0] == row:
            return known[1]
        value = self._make(
            [column if read is None else read(column) for read, column in zip(readers, row, strict=True)]
        )
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        if sum(len(column) for column in row if isinstance(column, str)) <= _MOST_CHARACTERS:
            self._known[key] = row, value
        return value


class _Compiled:
    """The statement in the words of one database."""

    def __init__(self, statement: Statement, columns: Sequence[str] | None, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self.text = str(compiled)
        self._processors: list[tuple[str, Callable[[Any], Any] | None]] = [
            (name, _binder(compiled.binds[name].type, dialect))
            for name in (compiled.positiontup if compiled.positional else compiled.binds) or ()
        ]
        self._positional = compiled.positional

    def bind(self, parameters: Parameters) -> Any:
        """The parameters as the driver takes them."""
        values = [
            parameters[name] if process is None else process(parameters[name]) for name, process in self._processors
        ]
        return (
            values
            if self._positional
            else {name: value for (name, _), value in zip(self._processors, values, strict=True)}
        )


def _binder(column_type: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a value of a column what the driver takes; None where it is that already."""
    if isinstance(column_type, Boolean):
        return None
    implementation = column_type.dialect_impl(dialect)
    if isinstance(implementation, TypeDecorator) and implementation.impl_instance.bind_processor(dialect) is None:
        return partial(implementation.process_bind_param, dialect=dialect)
    return implementation.bind_processor(dialect)
