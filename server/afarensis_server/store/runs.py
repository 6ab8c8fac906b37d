"""Runs as rows, each with the counter of its event log."""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, select

from ..domain.runs import Run, RunStatus
from . import tables
from .pages import Page, PageRequest
from .prepared import Prepared, PreparedRow
from .rows import Rows

_rows = Rows(tables.runs, Run)
_insert_log = Prepared(tables.event_logs.insert(), ("run_id", "project", "last_sequence", "ended"))
_columns = tables.runs.c
_active = PreparedRow(
    _rows.select.where(
        _columns.project == bindparam("row_project"), _columns.thread_id == bindparam("thread"), tables.ACTIVE_RUN
    ),
    _rows.value,
)
_others = (
    select(_columns.id)
    .where(
        _columns.project == bindparam("row_project"),
        _columns.thread_id == bindparam("thread"),
        _columns.id != bindparam("run"),
    )
    .order_by(_columns.id.desc())
    .limit(bindparam("size"))
)


def insert(connection: Connection, run: Run) -> None:
    """Store a new run with an empty event log. The thread must have no other run that is not over."""
    _rows.insert(connection, run)
    _insert_log.run(connection, {"run_id": run.id, "project": run.project, "last_sequence": 0, "ended": False})


def get(connection: Connection, project: str, run_id: str) -> Run | None:
    return _rows.get(connection, project, run_id)


def move(connection: Connection, run: Run, status: RunStatus) -> bool:
    """Write a run whose row has this status, the one it is moved from. False when there is none."""
    return _rows.move(connection, run, status)


def set_metadata(connection: Connection, project: str, run_id: str, metadata: Mapping[str, str]) -> bool:
    """False when there is no such row."""
    columns = tables.runs.c
    statement = tables.runs.update().where(columns.id == run_id, columns.project == project)
    return connection.execute(statement.values(metadata=metadata)).rowcount > 0


def delete(connection: Connection, project: str, run_id: str) -> bool:
    """Delete a run with its steps and events. False when there is no such row."""
    return _rows.delete(connection, project, run_id)


def list_page(
    connection: Connection,
    project: str,
    page: PageRequest,
    *,
    thread_id: str | None = None,
    assistant_id: str | None = None,
    statuses: Collection[RunStatus] = (),
) -> Page[Run]:
    filters = {"thread_id": thread_id, "assistant_id": assistant_id, "status": statuses}
    # A thread has few runs, an assistant fewer than a status.
    along = ["thread_id"] if thread_id else ["project", "assistant_id"] if assistant_id else []
    return _rows.list_page(connection, project, page, filters, along)


def active_for_thread(connection: Connection, project: str, thread_id: str) -> Run | None:
    """The run that locks the thread."""
    return _active.find(connection, {"row_project": project, "thread": thread_id})


def count_active(connection: Connection, project: str, most: int) -> int:
    """How many runs of a project are not over; counts up to this many."""
    some = select(tables.runs.c.id).where(tables.runs.c.project == project, tables.ACTIVE_RUN).limit(most).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def ids_besides(connection: Connection, project: str, thread_id: str, run_id: str, limit: int) -> list[str]:
    """The newest runs of a thread but for one, newest first."""
    named = {"row_project": project, "thread": thread_id, "run": run_id, "size": limit}
    return list(connection.execute(_others, named).scalars())


def expired_before(connection: Connection, time: datetime) -> list[Run]:
    """Runs of all projects that are not over, though their time is."""
    expire_time = tables.runs.c.expire_time
    return _rows.all(connection, _rows.select.where(expire_time <= time).order_by(expire_time))


def next_expiry(connection: Connection, after: datetime) -> datetime | None:
    """When the next run of any project expires; None when none is to."""
    expire_time = tables.runs.c.expire_time
    return connection.execute(
        select(expire_time).where(expire_time > after).order_by(expire_time).limit(1)
    ).scalar_one_or_none()
