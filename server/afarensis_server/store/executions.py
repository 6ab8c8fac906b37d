"""Executions as rows, each with an event log."""

from sqlalchemy import Connection, bindparam, literal, select

from ..domain.executions import Execution
from . import tables
from .rows import Rows

_rows = Rows(tables.executions, Execution)
_open_logs = (
    select(tables.execution_logs.c.project, tables.execution_logs.c.execution_id)
    .join(tables.executions, tables.executions.c.id == tables.execution_logs.c.execution_id)
    .join(tables.sessions, tables.sessions.c.id == tables.executions.c.session_id)
    # Sessions of before they named their servers are nobody's: a server that upgrades a database has ended.
    .where(tables.OPEN_LOG, tables.sessions.c.owner.in_([bindparam("session_owner"), literal("")]))
)


def insert(connection: Connection, execution: Execution) -> None:
    """Store a new execution. Its event log begins with its first events."""
    _rows.insert(connection, execution)


def get(connection: Connection, project: str, execution_id: str) -> Execution | None:
    return _rows.get(connection, project, execution_id)


def unfinished_of(connection: Connection, owner: str) -> list[tuple[str, str]]:
    """The project and the id of every execution that has not ended, in sessions of this server or of none."""
    found = connection.execute(_open_logs, {"session_owner": owner})
    return [(project, execution_id) for project, execution_id in found]
