"""Messages as rows. Their thread's row counts them."""

from collections import Counter
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, bindparam, select

from ..domain.threads import Message, MessageStatus
from . import tables
from .pages import Page, PageRequest
from .prepared import Prepared
from .rows import Rows

#: Messages of the first page and of the largest, when a thread is read from its end.
_FIRST_PAGE = 20
_LARGEST_PAGE = 320

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

_columns = tables.messages.c
_of_thread = _rows.select.where(_columns.project == bindparam("row_project"), _columns.thread_id == bindparam("thread"))
_of_run = _of_thread.where(_columns.run_id == bindparam("run")).order_by(_columns.id)
_newest = (
    _of_thread.where(_columns.run_id.is_distinct_from(bindparam("run")))
    .order_by(_columns.id.desc())
    .limit(bindparam("size"))
)
_next_newest = _newest.where(_columns.id < bindparam("last_id"))


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


def newest_first(connection: Connection, project: str, thread_id: str, run_id: str) -> Iterator[Message]:
    """A thread's messages without those that a run wrote. Read in pages, as far as the caller goes."""
    size = _FIRST_PAGE
    named = {"row_project": project, "thread": thread_id, "run": run_id}
    page = _rows.all(connection, _newest, {**named, "size": size})
    while page:
        yield from page
        if len(page) < size:
            return
        size = min(2 * size, _LARGEST_PAGE)
        page = _rows.all(connection, _next_newest, {**named, "last_id": page[-1].id, "size": size})


def list_of_run(connection: Connection, project: str, thread_id: str, run_id: str) -> list[Message]:
    """The messages that a run wrote, oldest first."""
    return _rows.all(connection, _of_run, {"row_project": project, "thread": thread_id, "run": run_id})


def count(connection: Connection, project: str, thread_id: str) -> int:
    """How many messages a thread has; 0 when there is no such thread."""
    return connection.execute(_count, {"row_id": thread_id, "row_project": project}).scalar_one_or_none() or 0
