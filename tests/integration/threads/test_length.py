"""Threads with many messages: counted without looking at them, deleted without holding others up."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.events import EventDraft, EventType
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Message, MessageRole, MessageStatus, TextContent, Thread
from afarensis_server.errors import MessageNotFound, RunNotFound, ShuttingDown, ThreadFull, ThreadNotFound
from afarensis_server.events.kinds import RunLog
from afarensis_server.store import messages, runs
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.pages import PageRequest
from afarensis_server.threads.service import ThreadLimits, Threads

PROJECT = "default"


def written(thread: Thread, count: int) -> list[Message]:
    return [
        Message(
            ids.message_id(),
            PROJECT,
            thread.id,
            now(),
            MessageRole.USER,
            MessageStatus.COMPLETED,
            (TextContent(str(number)),),
        )
        for number in range(count)
    ]


async def fill(database: Database, thread: Thread, count: int) -> Sequence[Message]:
    added = written(thread, count)
    await database.write(lambda tx: messages.insert(tx.connection, *added))
    return added


async def counted(database: Database, thread: Thread) -> int:
    return await database.read(lambda connection: messages.count(connection, PROJECT, thread.id))


async def test_thread_knows_how_many_messages_it_has(threads: Threads, database: Database) -> None:
    thread = await threads.create(PROJECT, {}, [{"text": "a"}, {"text": "b"}])
    other = await threads.create(PROJECT, {}, [{"text": "c"}])
    message = await threads.create_message(PROJECT, thread.id, {"text": "d"})
    await threads.update(PROJECT, thread.id, {"metadata": {"k": "v"}})
    assert (await counted(database, thread), await counted(database, other)) == (3, 1)
    await threads.delete_message(PROJECT, message.id)
    with pytest.raises(MessageNotFound):
        await threads.delete_message(PROJECT, message.id)
    assert (await counted(database, thread), await counted(database, other)) == (2, 1)


async def test_refused_message_is_not_counted(threads: Threads, database: Database) -> None:
    thread = await threads.create(PROJECT, {})

    def failing(tx: Transaction) -> None:
        messages.insert(tx.connection, *written(thread, 2))
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError):
        await database.write(failing)
    assert await counted(database, thread) == 0


async def test_room_that_a_deleted_message_leaves_can_be_used(database: Database) -> None:
    threads = Threads(database, ThreadLimits(messages=2))
    thread = await threads.create(PROJECT, {}, [{"text": "a"}, {"text": "b"}])
    with pytest.raises(ThreadFull):
        await threads.create_message(PROJECT, thread.id, {"text": "c"})
    (newest, _) = (await threads.list_messages(PROJECT, thread.id, PageRequest())).items
    await threads.delete_message(PROJECT, newest.id)
    await threads.create_message(PROJECT, thread.id, {"text": "c"})


async def test_long_thread_is_deleted_with_everything_of_it(threads: Threads, database: Database) -> None:
    thread, other = await threads.create(PROJECT, {}), await threads.create(PROJECT, {})
    log = RunLog(database)
    added = await fill(database, thread, 1_700)
    kept = await fill(database, other, 3)
    done = [
        Run(ids.run_id(), PROJECT, thread.id, "asst_x", now(), RunStatus.COMPLETED, "direct") for _number in range(45)
    ]

    def store(tx: Transaction) -> None:
        for run in done:
            runs.insert(tx.connection, run)
            log.append(tx, PROJECT, run.id, [EventDraft(EventType.RUN_CREATED, run)] * 60)

    await database.write(store)
    await threads.delete(PROJECT, thread.id)
    with pytest.raises(ThreadNotFound):
        await threads.get(PROJECT, thread.id)
    for message in added[::400]:
        with pytest.raises(MessageNotFound):
            await threads.get_message(PROJECT, message.id)
    for run in done[::20]:
        with pytest.raises(RunNotFound):
            await log.page(PROJECT, run.id, 0, 10)
    assert await rows_left(database) == {"threads": 1, "messages": 3, "runs": 0, "event_logs": 0, "events": 0}
    assert (await threads.list_messages(PROJECT, other.id, PageRequest(descending=False))).items == kept


async def rows_left(database: Database) -> dict[str, int]:
    names = ("threads", "messages", "runs", "event_logs", "events")
    return await database.read(
        lambda connection: {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in names
        }
    )


async def test_others_write_while_a_long_thread_is_deleted(threads: Threads, database: Database) -> None:
    thread, other = await threads.create(PROJECT, {}), await threads.create(PROJECT, {})
    await fill(database, thread, 6_000)
    deletion = asyncio.create_task(threads.delete(PROJECT, thread.id))
    between = 0
    while not deletion.done():
        await threads.create_message(PROJECT, other.id, {"text": "a"})
        between += not deletion.done()
    await deletion
    assert between > 3


async def test_thread_that_is_being_deleted_is_not_there(threads: Threads, database: Database) -> None:
    thread = await threads.create(PROJECT, {})
    await fill(database, thread, 3_000)
    deletion = asyncio.create_task(threads.delete(PROJECT, thread.id))
    while (await rows_left(database))["messages"] == 3_000:
        pass
    with pytest.raises(ThreadNotFound):
        await threads.create_message(PROJECT, thread.id, {"text": "a"})
    assert (await threads.list(PROJECT, PageRequest())).items == []
    await deletion


async def test_deletion_that_a_caller_leaves_is_done_all_the_same(threads: Threads, database: Database) -> None:
    thread = await threads.create(PROJECT, {})
    await fill(database, thread, 3_000)
    deletion = asyncio.create_task(threads.delete(PROJECT, thread.id))
    await asyncio.sleep(0)
    deletion.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deletion
    assert (await rows_left(database))["messages"] == 0


async def test_deletion_that_a_crash_ended_is_done_by_the_next_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with Database(url) as database:
        threads = Threads(database, ThreadLimits())
        thread, other = await threads.create(PROJECT, {}), await threads.create(PROJECT, {})
        await fill(database, thread, 2_000)
        deletion = asyncio.create_task(threads.delete(PROJECT, thread.id))
        while (await rows_left(database))["messages"] == 2_000:
            pass
        # The database ends under it, as it does under a process that is killed.
    with pytest.raises(ShuttingDown):
        await deletion
    async with Database(url) as database:
        assert (await rows_left(database))["messages"] > 0
        threads = Threads(database, ThreadLimits())
        await threads.finish_deletions()
        assert (await threads.list(PROJECT, PageRequest())).items == [other]
        assert (await rows_left(database))["messages"] == 0
