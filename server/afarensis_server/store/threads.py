"""Threads as rows."""

from sqlalchemy import Connection, bindparam, select

from ..domain.threads import Thread
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.threads, Thread)

#: The project of threads that are being deleted, which is nobody's.
_DELETED = ""
#: Runs that one unit of work looks at, to delete them with their events.
_RUNS = 20
_hide = (
    tables.threads.update()
    .where(tables.threads.c.id == bindparam("row_id"), tables.threads.c.project == bindparam("row_project"))
    .values(project=_DELETED)
)
_hidden = select(tables.threads.c.id).where(tables.threads.c.project == _DELETED).limit(1)


def insert(connection: Connection, thread: Thread) -> None:
    _rows.insert(connection, thread)


def get(connection: Connection, project: str, thread_id: str) -> Thread | None:
    return _rows.get(connection, project, thread_id)


def update(connection: Connection, thread: Thread) -> bool:
    """False when there is no such row."""
    return _rows.update(connection, thread)


def delete(connection: Connection, project: str, thread_id: str) -> bool:
    """Delete a thread with its messages, runs, steps and events at once. False when there is no such row."""
    return _rows.delete(connection, project, thread_id)


def hide(connection: Connection, project: str, thread_id: str) -> bool:
    """Take a thread from its project, to delete it. False when there is no such row."""
    return connection.execute(_hide, {"row_id": thread_id, "row_project": project}).rowcount > 0


def continue_deletion(connection: Connection, thread_id: str, most: int) -> bool:
    """Delete about ``most`` rows of a thread that was taken from its project; tells whether more are left.

    A long one has so many that deleting them all would hold up every other unit of work.
    """
    while most > 0:
        deleted = _delete_runs(connection, thread_id, most) or _delete_messages(connection, thread_id, most)
        if not deleted:
            _rows.delete(connection, _DELETED, thread_id)
            return False
        most -= deleted
    return True


def _delete_runs(connection: Connection, thread_id: str, most: int) -> int:
    """Delete some runs of a thread, or some of their events when these are too many; tells how many rows."""
    runs, events = tables.runs.c, tables.events.c
    run_ids = connection.execute(select(runs.id).where(runs.thread_id == thread_id).limit(_RUNS)).scalars().all()
    if not run_ids:
        return 0
    told = select(events.position).where(events.run_id.in_(run_ids)).limit(most)
    deleted = connection.execute(tables.events.delete().where(events.position.in_(told))).rowcount
    if deleted < most:
        deleted += connection.execute(tables.runs.delete().where(runs.id.in_(run_ids))).rowcount
    return deleted


def _delete_messages(connection: Connection, thread_id: str, most: int) -> int:
    messages = tables.messages.c
    some = select(messages.id).where(messages.thread_id == thread_id).limit(most)
    return connection.execute(tables.messages.delete().where(messages.id.in_(some))).rowcount


def half_deleted(connection: Connection) -> str | None:
    """A thread whose deletion was begun and is not done."""
    return connection.execute(_hidden).scalar_one_or_none()


def list_page(connection: Connection, project: str, page: PageRequest) -> Page[Thread]:
    return _rows.list_page(connection, project, page)
