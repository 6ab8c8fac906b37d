"""Executions as rows, each with the counter of its event log."""

from sqlalchemy import Connection, select

from ..domain.executions import Execution
from . import tables
from .prepared import Prepared
from .rows import Rows

_rows = Rows(tables.executions, Execution)
_insert = Prepared(tables.executions.insert())
_insert_log = Prepared(tables.execution_logs.insert())
_open_logs = select(tables.execution_logs.c.project, tables.execution_logs.c.execution_id).where(tables.OPEN_LOG)


def insert(connection: Connection, execution: Execution) -> None:
    """Store a new execution with an empty event log."""
    _insert.run(connection, _rows.parameters(execution))
    counter = {"execution_id": execution.id, "project": execution.project, "last_sequence": 0, "ended": False}
    _insert_log.run(connection, counter)


def get(connection: Connection, project: str, execution_id: str) -> Execution | None:
    return _rows.get(connection, project, execution_id)


def unfinished(connection: Connection) -> list[tuple[str, str]]:
    """The project and the id of every execution that has not ended."""
    return [(project, execution_id) for project, execution_id in connection.execute(_open_logs)]
