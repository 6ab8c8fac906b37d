"""Messages as rows. Their thread's row counts them."""

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, select

from ..domain.threads import Message, MessageStatus
from . import tables
from .pages import Page, PageRequest
from .prepared import Prepared
from .rows import Rows

_rows = Rows(tables.messages, Message)
_thread = tables.threads.c
_recount = Prepared(
    tables.threads.update()
    .where(_thread.id == bindparam("thread"))
    .values(message_count=_thread.message_count + bindparam("more"))
)
_delete = (
    tables.messages.delete()
    .where(tables.messages.c.id == bindparam("row_id"), tables.messages.c.project == bindparam("row_project"))
    .returning(tables.messages.c.thread_id)
)
_count = select(_thread.message_count).where(
    _thread.id == bindparam("row_id"), _thread.project == bindparam("row_project")
)


def insert(connection: Connection, *messages: Message) -> None:
    _rows.insert(connection, *messages)
    for thread_id, more in Counter(message.thread_id for message in messages).items():
        _recount.run(connection, {"thread": thread_id, "more": more})


def get(connection: Connection, project: str, message_id: str) -> Message | None:
    return _rows.get(connection, project, message_id)


def set_metadata(connection: Connection, project: str, message_id: str, metadata: Mapping[str, str]) -> bool:
    """False when there is no such row."""
    columns = tables.messages.c
    statement = tables.messages.update().where(columns.id == message_id, columns.project == project)
    return connection.execute(statement.values(metadata=metadata)).rowcount > 0


def end(connection: Connection, message: Message) -> bool:
    """Write how an open message ends. False when there is none that is open."""
    return _rows.move(connection, message, MessageStatus.IN_PROGRESS)


def delete(connection: Connection, project: str, message_id: str) -> bool:
    """False when there is no such row."""
    thread_id = connection.execute(_delete, {"row_id": message_id, "row_project": project}).scalar_one_or_none()
    if thread_id is None:
        return False
    _recount.run(connection, {"thread": thread_id, "more": -1})
    return True


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
    """How many messages a thread has; 0 when there is no such thread."""
    return connection.execute(_count, {"row_id": thread_id, "row_project": project}).scalar_one_or_none() or 0
