"""Executions as rows, each with an event log."""

from sqlalchemy import Connection, select

from ..domain.executions import Execution
from . import tables
from .rows import Rows

_rows = Rows(tables.executions, Execution)
_open_logs = select(tables.execution_logs.c.project, tables.execution_logs.c.execution_id).where(tables.OPEN_LOG)


def insert(connection: Connection, execution: Execution) -> None:
    """Store a new execution. Its event log begins with its first events."""
    _rows.insert(connection, execution)


def get(connection: Connection, project: str, execution_id: str) -> Execution | None:
    return _rows.get(connection, project, execution_id)


def unfinished(connection: Connection) -> list[tuple[str, str]]:
    """The project and the id of every execution that has not ended."""
    return [(project, execution_id) for project, execution_id in connection.execute(_open_logs)]
