"""Messages as rows."""

from sqlalchemy import Connection, func, select

from ..domain.threads import Message
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.messages, Message)


def insert(connection: Connection, *messages: Message) -> None:
    _rows.insert(connection, *messages)


def get(connection: Connection, project: str, message_id: str) -> Message | None:
    return _rows.get(connection, project, message_id)


def update(connection: Connection, message: Message) -> bool:
    """False when there is no such row."""
    return _rows.update(connection, message)


def delete(connection: Connection, project: str, message_id: str) -> bool:
    """False when there is no such row."""
    return _rows.delete(connection, project, message_id)


def list_page(
    connection: Connection, project: str, page: PageRequest, thread_id: str, run_id: str | None = None
) -> Page[Message]:
    return _rows.list_page(connection, project, page, {"thread_id": thread_id, "run_id": run_id})


def list_for_prompt(
    connection: Connection, project: str, thread_id: str, run_id: str, newest: int | None = None
) -> list[Message]:
    """A thread's messages, oldest first: those that the run wrote, and of the others all or this many of the newest."""
    columns = tables.messages.c
    of_thread = _rows.select.where(columns.project == project, columns.thread_id == thread_id)
    order = (columns.create_time.desc(), columns.id.desc())
    if newest is None:
        return _rows.all(connection, of_thread.order_by(*order))[::-1]
    others = of_thread.where(columns.run_id.is_distinct_from(run_id)).order_by(*order).limit(newest)
    own = of_thread.where(columns.run_id == run_id).order_by(*order)
    # A run's own messages are the newest: nobody else adds any while it locks the thread.
    return [*_rows.all(connection, others)[::-1], *_rows.all(connection, own)[::-1]]


def count(connection: Connection, project: str, thread_id: str) -> int:
    threads = tables.threads.c
    # The project is looked up once, not for each message: this way the index alone answers.
    thread = select(threads.id).where(threads.id == thread_id, threads.project == project).scalar_subquery()
    statement = select(func.count()).where(tables.messages.c.thread_id == thread)
    return connection.execute(statement).scalar_one()
