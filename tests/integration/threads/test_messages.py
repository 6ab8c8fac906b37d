import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from afarensis_server import clock, ids
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import (
    Attachment,
    ImageFileContent,
    MessageRole,
    MessageStatus,
    TextContent,
    Thread,
)
from afarensis_server.domain.tools import CodeInterpreterTool, ToolResources
from afarensis_server.errors import (
    FileNotFound,
    InvalidFields,
    MessageNotFound,
    RequestIdReused,
    ThreadFull,
    ThreadLocked,
    ThreadLockedForDeletion,
    ThreadNotFound,
)
from afarensis_server.files.service import Files, UploadHead
from afarensis_server.store import runs
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from afarensis_server.store.writer import Transaction
from afarensis_server.threads.service import MessageFields, ThreadLimits, Threads
from tests.support.clocks import set_clock_back

PROJECT = "default"
PAGE = PageRequest()


@pytest.fixture
async def thread(threads: Threads) -> Thread:
    return await threads.create(PROJECT, {})


async def stored(files: Files, filename: str = "data.csv", count: int = 1) -> Sequence[str]:
    return [(await files.create(PROJECT, UploadHead(filename), b"%d" % n)).id for n in range(count)]


def new_run(thread: Thread, status: RunStatus = RunStatus.QUEUED) -> Run:
    return Run(ids.run_id(), PROJECT, thread.id, "asst_a", clock.now(), status, "direct")


async def lock(database: Database, thread: Thread, status: RunStatus = RunStatus.QUEUED) -> Run:
    run = new_run(thread, status)
    await database.write(lambda tx: runs.insert(tx.connection, run))
    return run


async def test_messages_are_listed_as_they_came_though_the_clock_was_set_back(
    threads: Threads, thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await threads.create_message(PROJECT, thread.id, {"text": "first"})
    set_clock_back(monkeypatch, timedelta(seconds=2))
    second = await threads.create_message(PROJECT, thread.id, {"text": "second"})
    assert second.create_time < first.create_time
    assert (await threads.list_messages(PROJECT, thread.id, PAGE)).items == [second, first]


async def test_created_message_can_be_read_back(threads: Threads, thread: Thread) -> None:
    message = await threads.create_message(PROJECT, thread.id, {"text": "Hello 漢字 🙂", "metadata": {"k": "v"}})
    assert (message.role, message.status, message.content) == (
        MessageRole.USER,
        MessageStatus.COMPLETED,
        (TextContent("Hello 漢字 🙂"),),
    )
    assert message.complete_time == message.create_time
    assert (message.assistant_id, message.run_id) == (None, None)
    assert await threads.get_message(PROJECT, message.id) == message


async def test_messages_are_listed_newest_first_and_by_run(threads: Threads, thread: Thread) -> None:
    created = [await threads.create_message(PROJECT, thread.id, {"text": str(n)}) for n in range(3)]
    page = await threads.list_messages(PROJECT, thread.id, PageRequest(2))
    assert page.items == [created[2], created[1]]
    assert (await threads.list_messages(PROJECT, thread.id, PageRequest(2, page.next_token))).items == [created[0]]
    assert (await threads.list_messages(PROJECT, thread.id, PAGE, "run_none")).items == []


@pytest.mark.parametrize("size", [-1, 101])
async def test_page_size_outside_of_its_range_is_refused(threads: Threads, thread: Thread, size: int) -> None:
    for attempt in (
        threads.list(PROJECT, PageRequest(size)),
        threads.list_messages(PROJECT, thread.id, PageRequest(size)),
    ):
        with pytest.raises(InvalidFields, match="page_size"):
            await attempt


async def test_attached_files_become_the_threads(threads: Threads, thread: Thread, files: Files) -> None:
    first, second = await stored(files, count=2)
    message = await threads.create_message(PROJECT, thread.id, {"text": "a", "attachments": [Attachment(first)]})
    assert message.attachments == (Attachment(first, (CodeInterpreterTool(),)),)
    await threads.create_message(
        PROJECT, thread.id, {"text": "b", "attachments": [Attachment(second), Attachment(first)]}
    )
    assert (await threads.get(PROJECT, thread.id)).tool_resources == ToolResources((first, second))


async def test_attachments_above_the_threads_limit_are_refused(threads: Threads, files: Files) -> None:
    many = await stored(files, count=21)
    thread = await threads.create(PROJECT, {"tool_resources": ToolResources(tuple(many[:19]))})
    await threads.create_message(PROJECT, thread.id, {"text": "a", "attachments": [Attachment(many[19])]})
    with pytest.raises(InvalidFields) as refused:
        await threads.create_message(PROJECT, thread.id, {"text": "a", "attachments": [Attachment(many[20])]})
    assert [(violation.field, violation.reason) for violation in refused.value.violations] == [
        ("attachments", "TOO_MANY_ITEMS")
    ]
    assert "would have 21 files for the code interpreter. Expected at most 20." in str(refused.value)
    again = await threads.create_message(PROJECT, thread.id, {"text": "a", "attachments": [Attachment(many[0])]})
    assert (await threads.list_messages(PROJECT, thread.id, PAGE)).items[0] == again


@pytest.mark.parametrize(
    "fields",
    [
        MessageFields(text="a", attachments=[Attachment("file-none")]),
        MessageFields(content=[ImageFileContent("file-none")]),
    ],
)
async def test_unknown_file_is_named(threads: Threads, thread: Thread, fields: MessageFields) -> None:
    with pytest.raises(FileNotFound, match="No such File object: file-none"):
        await threads.create_message(PROJECT, thread.id, fields)


async def test_only_images_are_shown_as_images(threads: Threads, thread: Thread, files: Files) -> None:
    (image,), (table,) = await stored(files, "plot.png"), await stored(files, "data.csv")
    await threads.create_message(PROJECT, thread.id, {"content": [ImageFileContent(image)]})
    with pytest.raises(InvalidFields) as refused:
        await threads.create(PROJECT, {}, [{"text": "a"}, {"content": [TextContent("b"), ImageFileContent(table)]}])
    assert [violation.field for violation in refused.value.violations] == ["messages[1].content[1].image_file.file_id"]


async def test_update_replaces_the_metadata_alone(threads: Threads, thread: Thread) -> None:
    message = await threads.create_message(PROJECT, thread.id, {"text": "a", "metadata": {"k": "v"}})
    assert await threads.update_message(PROJECT, message.id, {}) == replace(message, metadata={})
    with pytest.raises(InvalidFields):
        await threads.update_message(PROJECT, message.id, {"": ""})


async def test_deleted_message_does_not_exist_and_its_files_stay(
    threads: Threads, thread: Thread, files: Files
) -> None:
    (attached,) = await stored(files)
    message = await threads.create_message(PROJECT, thread.id, {"text": "a", "attachments": [Attachment(attached)]})
    await threads.delete_message(PROJECT, message.id)
    for call in (threads.get_message, threads.delete_message):
        with pytest.raises(MessageNotFound, match=f"No message found with id '{message.id}'."):
            await call(PROJECT, message.id)
    assert (await threads.get(PROJECT, thread.id)).tool_resources == ToolResources((attached,))
    assert (await files.get(PROJECT, attached)).id == attached


async def test_message_on_an_unknown_thread_is_refused(threads: Threads) -> None:
    with pytest.raises(ThreadNotFound, match=r"No thread found with id 'thread_none'\."):
        await threads.create_message(PROJECT, "thread_none", {"text": "a"})


@pytest.mark.parametrize("status", [status for status in RunStatus if not status.is_terminal])
async def test_thread_of_an_active_run_takes_and_gives_no_messages(
    threads: Threads, thread: Thread, database: Database, status: RunStatus
) -> None:
    message = await threads.create_message(PROJECT, thread.id, {"text": "a"})
    run = await lock(database, thread, status)
    with pytest.raises(ThreadLocked) as refused:
        await threads.create_message(PROJECT, thread.id, {"text": "b"})
    assert str(refused.value) == f"Can't add messages to {thread.id} while a run {run.id} is active."
    assert refused.value.metadata["run_id"] == run.id
    with pytest.raises(ThreadLockedForDeletion):
        await threads.delete_message(PROJECT, message.id)
    assert (await threads.list_messages(PROJECT, thread.id, PAGE)).items == [message]
    assert (await threads.update(PROJECT, thread.id, {"metadata": {"k": "v"}})).metadata == {"k": "v"}


@pytest.mark.parametrize("status", [status for status in RunStatus if status.is_terminal])
async def test_thread_is_free_again_after_its_run(
    threads: Threads, thread: Thread, database: Database, status: RunStatus
) -> None:
    await lock(database, thread, status)
    message = await threads.create_message(PROJECT, thread.id, {"text": "a"})
    await threads.delete_message(PROJECT, message.id)


async def test_messages_of_before_a_run_are_stored_and_those_of_after_it_refused(
    threads: Threads, thread: Thread, database: Database
) -> None:
    async def say(text: str) -> str | None:
        try:
            return (await threads.create_message(PROJECT, thread.id, {"text": text})).id
        except ThreadLocked:
            return None

    before = [asyncio.create_task(say("before")) for _ in range(20)]
    starting = asyncio.create_task(lock(database, thread))
    after = [asyncio.create_task(say("after")) for _ in range(20)]
    told = await asyncio.gather(*before)
    await starting
    assert await asyncio.gather(*after) == [None] * 20
    page = await threads.list_messages(PROJECT, thread.id, PageRequest(100))
    assert {message.id for message in page.items} == set(told)


async def test_full_thread_takes_no_more(database: Database) -> None:
    threads = Threads(database, ThreadLimits(messages=2))
    thread = await threads.create(PROJECT, {}, [{"text": "a"}])
    await threads.create_message(PROJECT, thread.id, {"text": "b"})
    with pytest.raises(ThreadFull, match=f"Thread {thread.id} has 2 messages"):
        await threads.create_message(PROJECT, thread.id, {"text": "c"})


async def test_repeated_request_gives_the_message_it_created(
    threads: Threads, thread: Thread, database: Database
) -> None:
    message = await threads.create_message(PROJECT, thread.id, {"text": "a"}, "r1")
    # The thread may have been locked since: what was created is still what was created.
    await lock(database, thread)
    assert await threads.create_message(PROJECT, thread.id, {"text": "a"}, "r1") == message
    with pytest.raises(RequestIdReused):
        await threads.create_message(PROJECT, thread.id, {"text": "b"}, "r1")


async def test_pieces_join_the_unit_of_work_of_others(
    threads: Threads, thread: Thread, database: Database, files: Files
) -> None:
    (attached,) = await stored(files)

    def work(tx: Transaction) -> Thread:
        return threads.insert_messages(
            tx, thread, [{"text": "a", "attachments": [Attachment(attached)]}, {"text": "b"}]
        )

    returned = await database.write(work)
    assert returned == await threads.get(PROJECT, thread.id)
    assert returned.tool_resources == ToolResources((attached,))

    def failing(tx: Transaction) -> None:
        threads.insert_new(tx, PROJECT, {}, [{"text": "lost"}])
        raise sqlite3.ProgrammingError

    with pytest.raises(sqlite3.ProgrammingError):
        await database.write(failing)
    assert len((await threads.list(PROJECT, PAGE)).items) == 1
