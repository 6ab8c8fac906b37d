"""Sessions as rows."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, TextClause, bindparam, select

from ..domain.sessions import Session, SessionStatus
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.sessions, Session)

_any_of_thread = (
    select(tables.sessions.c.id)
    .where(tables.sessions.c.project == bindparam("row_project"), tables.sessions.c.thread_id == bindparam("thread"))
    .limit(1)
)


def insert(connection: Connection, session: Session) -> None:
    """Store a new session. Its thread, if it has one, must have no other active session."""
    _rows.insert(connection, session)


def get(connection: Connection, project: str, session_id: str) -> Session | None:
    return _rows.get(connection, project, session_id)


def update(connection: Connection, session: Session) -> bool:
    """False when there is no such row."""
    return _rows.update(connection, session)


def delete(connection: Connection, project: str, session_id: str) -> bool:
    """False when there is no such row."""
    return _rows.delete(connection, project, session_id)


def list_page(
    connection: Connection,
    project: str,
    page: PageRequest,
    thread_id: str | None = None,
    status: SessionStatus | None = None,
) -> Page[Session]:
    return _rows.list_page(connection, project, page, {"thread_id": thread_id, "status": status})


def active_for_thread(connection: Connection, project: str, thread_id: str) -> Session | None:
    columns = tables.sessions.c
    statement = _rows.select.where(columns.project == project, columns.thread_id == thread_id, tables.ACTIVE_SESSION)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _rows.value(row)


def exists_for_thread(connection: Connection, project: str, thread_id: str) -> bool:
    """Whether the thread has, or ever had, a session."""
    return connection.execute(_any_of_thread, {"row_project": project, "thread": thread_id}).first() is not None


def lose_of(connection: Connection, owner: str, time: datetime) -> int:
    """Mark a server's active sessions as lost, when it has ended; tells how many there were."""
    columns = tables.sessions.c
    return _lose(connection, time, columns.status == SessionStatus.ACTIVE, columns.owner == owner)


def lose_of_thread(connection: Connection, project: str, thread_id: str, time: datetime) -> int:
    """Mark a thread's active session as lost, when another server goes on with it; tells how many there were."""
    columns = tables.sessions.c
    return _lose(connection, time, tables.ACTIVE_SESSION, columns.project == project, columns.thread_id == thread_id)


def _lose(connection: Connection, time: datetime, *which: ColumnElement[bool] | TextClause) -> int:
    statement = tables.sessions.update().where(*which)
    return connection.execute(statement.values(status=SessionStatus.LOST, close_time=time)).rowcount
