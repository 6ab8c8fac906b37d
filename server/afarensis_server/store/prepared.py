"""Statements of the hot path: written by SQLAlchemy once, then run by the driver itself.

What SQLAlchemy does around each run (contexts, caches, events, results) takes six times as long as SQLite takes for a
small statement. That is worth it nearly everywhere, and not where every few bytes of output are a row, or where every
call begins with one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Select, Update

Parameters = Mapping[str, Any]


class Prepared:
    """One statement with parameters by name. Values go through the types of their columns."""

    def __init__(self, statement: Insert | Update | Select[Any], columns: Sequence[str] | None = None) -> None:
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
        return _cursor(connection).execute(compiled.text, compiled.bind(parameters))

    def run_many(self, connection: Connection, parameters: Sequence[Parameters]) -> None:
        """Run it for each of these."""
        compiled = self._for(connection)
        _cursor(connection).executemany(compiled.text, [compiled.bind(each) for each in parameters])

    def _for(self, connection: Connection) -> "_Compiled":
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, self._columns, dialect)
        return compiled


class PreparedRow:
    """One statement that finds a row or none, with parameters by name. Values go through the types of their columns."""

    def __init__(self, statement: Select[Any]) -> None:
        """Nothing is compiled yet."""
        self._statement = statement
        self._compiled: dict[str, tuple[_Compiled, list[Any]]] = {}

    def find(self, connection: Connection, parameters: Parameters) -> list[Any] | None:
        """The row's values. The driver's own errors come out as they are."""
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            readers: list[Any] = [
                column.type.dialect_impl(dialect).result_processor(dialect, None)
                for column in self._statement.selected_columns
            ]
            self._compiled[dialect.name] = _Compiled(self._statement, None, dialect), readers
        compiled, readers = self._compiled[dialect.name]
        cursor = _cursor(connection)
        try:
            row = cursor.execute(compiled.text, compiled.bind(parameters)).fetchone()
        finally:
            cursor.close()  # or its snapshot would stay
        if row is None:
            return None
        return [value if read is None else read(value) for read, value in zip(readers, row, strict=True)]


class _Compiled:
    """The statement in the words of one database."""

    def __init__(
        self, statement: Insert | Update | Select[Any], columns: Sequence[str] | None, dialect: Dialect
    ) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self.text = str(compiled)
        self._processors: list[tuple[str, Callable[[Any], Any] | None]] = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in (compiled.positiontup if compiled.positional else compiled.binds) or ()
        ]
        self._positional = compiled.positional

    def bind(self, parameters: Parameters) -> Any:
        """The parameters as the driver takes them."""
        values = [
            (name, parameters[name] if process is None else process(parameters[name]))
            for name, process in self._processors
        ]
        return [value for _, value in values] if self._positional else dict(values)


def _cursor(connection: Connection) -> Any:
    return connection.connection.cursor()
