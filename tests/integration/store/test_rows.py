"""Every kind of value goes into its table and comes back the same, for its own project only."""

import dataclasses
from datetime import timedelta
from sqlite3 import IntegrityError
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Connection

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.assistants import Assistant
from afarensis_server.domain.executions import (
    DisplayItem,
    ExecutionResult,
    ExecutionStatus,
    FileChangeKind,
    FileItem,
    OutputItem,
    OutputStream,
    Representation,
)
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.domain.runs import (
    TERMINAL_RUN_STATUSES,
    CodeInterpreterCall,
    FunctionCall,
    MessageCreation,
    RequiredAction,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunStatus,
    RunStep,
    StepStatus,
    ToolCalls,
    TruncationStrategy,
    TruncationType,
    Usage,
)
from afarensis_server.domain.sessions import Session, SessionLimits, SessionStatus
from afarensis_server.domain.threads import (
    Attachment,
    FilePathAnnotation,
    ImageFileContent,
    ImageUrlContent,
    Message,
    MessageIncompleteReason,
    MessageRole,
    MessageStatus,
    RefusalContent,
    TextContent,
    Thread,
)
from afarensis_server.domain.tools import (
    CodeInterpreterTool,
    FunctionTool,
    ResponseFormat,
    ResponseFormatType,
    ToolChoice,
    ToolChoiceMode,
    ToolResources,
)
from afarensis_server.store import assistants, files, messages, runs, sessions, steps, tables, threads
from afarensis_server.store.database import Database, Transaction

PROJECT = "default"
TIME = now()

THREAD = Thread(ids.thread_id(), PROJECT, TIME, ToolResources(("file-1", "file-2")), {"k": "v", "": "å\u2028\0"})
FILE = File(ids.file_id(), PROJECT, TIME, "données.csv", FilePurpose.USER_DATA, 1 << 40, "0" * 64, "text/csv", TIME)
ASSISTANT = Assistant(
    ids.assistant_id(),
    PROJECT,
    TIME,
    "gpt",
    name="n",
    description="",
    instructions="i" * 1000,
    tools=(CodeInterpreterTool(), FunctionTool("f", None, '{"a": 1e400}', True)),
    tool_resources=ToolResources(("file-1",)),
    metadata={"a": "b"},
    temperature=0.1,
    top_p=1.0,
    response_format=ResponseFormat(ResponseFormatType.JSON_SCHEMA, "n", None, "{}", False),
    reasoning_effort="low",
)
MESSAGE = Message(
    ids.message_id(),
    PROJECT,
    THREAD.id,
    TIME,
    MessageRole.ASSISTANT,
    MessageStatus.INCOMPLETE,
    (
        TextContent("see sandbox:/mnt/data/x.csv", (FilePathAnnotation("sandbox:/mnt/data/x.csv", 4, 27, "file-1"),)),
        ImageFileContent("file-2", "high"),
        ImageUrlContent("https://example.org/x.png"),
        RefusalContent("no"),
    ),
    attachments=(Attachment("file-1", (CodeInterpreterTool(),)), Attachment("file-2")),
    assistant_id=ASSISTANT.id,
    run_id="run_x",
    incomplete_reason=MessageIncompleteReason.RUN_EXPIRED,
    complete_time=TIME,
    incomplete_time=TIME + timedelta(microseconds=1),
    metadata={"a": "b"},
)
RUN = Run(
    ids.run_id(),
    PROJECT,
    THREAD.id,
    ASSISTANT.id,
    TIME,
    RunStatus.REQUIRES_ACTION,
    "gpt",
    instructions="i",
    tools=ASSISTANT.tools,
    tool_resources=ASSISTANT.tool_resources,
    metadata={"a": "b"},
    temperature=2.0,
    top_p=0.0,
    max_prompt_tokens=256,
    max_completion_tokens=1 << 40,
    truncation_strategy=TruncationStrategy(TruncationType.LAST_MESSAGES, 5),
    tool_choice=ToolChoice(ToolChoiceMode.FUNCTION, "f"),
    parallel_tool_calls=False,
    response_format=ResponseFormat(),
    reasoning_effort="high",
    required_action=RequiredAction((FunctionCall("call_1", "f", "{broken"),)),
    last_error=RunError(RunErrorCode.RATE_LIMIT_EXCEEDED, "m", "R"),
    incomplete_reason=RunIncompleteReason.CONTENT_FILTER,
    expire_time=TIME,
    start_time=TIME,
    cancel_time=TIME,
    fail_time=TIME,
    complete_time=TIME,
    incomplete_time=TIME,
    expired_time=TIME,
    usage=Usage(3, 4),
)
STEP = RunStep(
    ids.step_id(),
    PROJECT,
    RUN.id,
    THREAD.id,
    ASSISTANT.id,
    TIME,
    StepStatus.FAILED,
    ToolCalls(
        (
            CodeInterpreterCall(
                "call_1",
                "print(1)",
                (
                    OutputItem(OutputStream.STDERR, "1\n", 7),
                    DisplayItem(
                        (Representation("image/png", data=b"\x89PNG\xff\0"), Representation("text/plain", "x"))
                    ),
                    FileItem("/mnt/data/x", FileChangeKind.CREATED, FILE, 5),
                    FileItem("/mnt/data/y", FileChangeKind.DELETED),
                ),
                ExecutionResult(ExecutionStatus.OK, 1.5, 0.25, 1 << 33),
                "sess_1",
                "exec_1",
                True,
            ),
            FunctionCall("call_2", "f", "{}", "out"),
        )
    ),
    last_error=RunError(RunErrorCode.SERVER_ERROR, "m"),
    complete_time=TIME,
    cancel_time=TIME,
    fail_time=TIME,
    expired_time=TIME,
    metadata={"a": "b"},
    usage=Usage(1, 2),
)
LIMITS = SessionLimits(1 << 33, 0.5, 64, 256, 1 << 30, 10_000, 1 << 20, 1 << 22)
SESSION = Session(
    ids.session_id(),
    PROJECT,
    TIME,
    SessionStatus.ACTIVE,
    THREAD.id,
    LIMITS,
    idle_seconds=1200.0,
    life_seconds=3600.0,
    last_active_time=TIME,
    expire_time=TIME,
    close_time=TIME,
    file_ids=("file-2", "file-1"),
    name="n",
    metadata={"a": "b"},
    owner="worker_1",
)

#: Every kind, full and bare, in an order in which they may be inserted.
FULL: list[tuple[ModuleType, Any]] = [
    (threads, THREAD),
    (files, FILE),
    (assistants, ASSISTANT),
    (messages, MESSAGE),
    (runs, RUN),
    (steps, STEP),
    (sessions, SESSION),
]
BARE: list[tuple[ModuleType, Any]] = [
    (threads, Thread(THREAD.id, PROJECT, TIME)),
    (files, File(FILE.id, PROJECT, TIME, "a", FilePurpose.ASSISTANTS, 0, "0" * 64, "text/csv")),
    (assistants, Assistant(ASSISTANT.id, PROJECT, TIME, "m")),
    (messages, Message(MESSAGE.id, PROJECT, THREAD.id, TIME, MessageRole.USER, MessageStatus.COMPLETED, ())),
    (runs, Run(RUN.id, PROJECT, THREAD.id, ASSISTANT.id, TIME, RunStatus.QUEUED, "m")),
    (
        steps,
        RunStep(
            STEP.id, PROJECT, RUN.id, THREAD.id, ASSISTANT.id, TIME, StepStatus.IN_PROGRESS, MessageCreation("msg_1")
        ),
    ),
    (sessions, Session(SESSION.id, PROJECT, TIME, SessionStatus.CLOSED, None, LIMITS, 1.0, 2.0, TIME, TIME)),
]


def insert_all(tx: Transaction, values: list[tuple[ModuleType, Any]]) -> None:
    for store, value in values:
        store.insert(tx.connection, value)


@pytest.mark.parametrize("values", [FULL, BARE], ids=["full", "bare"])
async def test_values_come_back_as_they_went_in(database: Database, values: list[tuple[ModuleType, Any]]) -> None:
    await database.write(lambda tx: insert_all(tx, values))
    for store, value in values:
        assert await database.read(lambda connection: store.get(connection, PROJECT, value.id)) == value  # noqa: B023


async def test_update_replaces_every_field(database: Database) -> None:
    await database.write(lambda tx: insert_all(tx, BARE))
    for store, value in (pair for pair in FULL if hasattr(pair[0], "update")):
        assert await database.write(lambda tx: store.update(tx.connection, value))  # noqa: B023
        assert await database.read(lambda connection: store.get(connection, PROJECT, value.id)) == value  # noqa: B023


async def test_row_that_has_not_changed_is_not_made_anew(database: Database) -> None:
    def read(connection: Connection) -> Run | None:
        return runs.get(connection, PROJECT, RUN.id)

    await database.write(lambda tx: insert_all(tx, FULL))
    first = await database.read(read)
    assert first is not None
    assert await database.look(read) is first
    await database.write(lambda tx: runs.set_metadata(tx.connection, PROJECT, RUN.id, {"new": "er"}))
    second = await database.look(read)
    assert second == dataclasses.replace(first, metadata={"new": "er"})


async def test_long_rows_are_not_remembered(database: Database) -> None:
    def read(connection: Connection, run_id: str) -> Run | None:
        return runs.get(connection, PROJECT, run_id)

    long = dataclasses.replace(RUN, instructions="x" * 10_000)
    await database.write(lambda tx: insert_all(tx, [*FULL[: FULL.index((runs, RUN))], (runs, long)]))
    first = await database.look(lambda connection: read(connection, RUN.id))
    again = await database.look(lambda connection: read(connection, RUN.id))
    assert first == again == long
    assert first is not again


@pytest.mark.parametrize("position", range(len(FULL)), ids=[type(value).__name__ for _, value in FULL])
async def test_another_project_neither_sees_nor_changes_it(database: Database, position: int) -> None:
    store, value = FULL[position]
    await database.write(lambda tx: insert_all(tx, FULL))
    other = dataclasses.replace(value, project="other")
    assert await database.read(lambda connection: store.get(connection, "other", value.id)) is None
    if hasattr(store, "update"):
        assert not await database.write(lambda tx: store.update(tx.connection, other))
    assert not await database.write(lambda tx: store.delete(tx.connection, "other", value.id))
    assert await database.read(lambda connection: store.get(connection, PROJECT, value.id)) == value


@pytest.mark.parametrize("position", range(len(FULL)), ids=[type(value).__name__ for _, value in FULL])
async def test_deleted_value_is_gone(database: Database, position: int) -> None:
    store, value = FULL[position]
    await database.write(lambda tx: insert_all(tx, FULL))
    assert await database.write(lambda tx: store.delete(tx.connection, PROJECT, value.id))
    assert await database.read(lambda connection: store.get(connection, PROJECT, value.id)) is None
    assert not await database.write(lambda tx: store.delete(tx.connection, PROJECT, value.id))


async def test_time_without_a_zone_is_refused(database: Database) -> None:
    naive = dataclasses.replace(THREAD, create_time=TIME.replace(tzinfo=None))
    with pytest.raises(Exception, match="without a zone"):
        await database.write(lambda tx: threads.insert(tx.connection, naive))


async def test_deleting_a_thread_deletes_what_belongs_to_it(database: Database) -> None:
    await database.write(lambda tx: insert_all(tx, FULL))
    await database.write(lambda tx: threads.delete(tx.connection, PROJECT, THREAD.id))
    for table in (tables.messages, tables.runs, tables.run_steps, tables.event_logs, tables.run_queue):
        assert await database.read(lambda connection: connection.execute(table.select()).all()) == []  # noqa: B023
    # Others outlive it: files may be used elsewhere, and what a session used is accounted for.
    assert await database.read(lambda connection: files.get(connection, PROJECT, FILE.id)) == FILE
    assert await database.read(lambda connection: sessions.get(connection, PROJECT, SESSION.id)) == SESSION


@pytest.mark.parametrize("status", sorted(set(RunStatus) - TERMINAL_RUN_STATUSES))
async def test_thread_has_one_run_that_is_not_over(database: Database, status: RunStatus) -> None:
    active = dataclasses.replace(RUN, status=status)
    await database.write(lambda tx: insert_all(tx, [(threads, THREAD), (runs, active)]))
    second = dataclasses.replace(RUN, id=ids.run_id(), status=RunStatus.QUEUED)
    with pytest.raises(IntegrityError):
        await database.write(lambda tx: runs.insert(tx.connection, second))
    found = await database.read(lambda connection: runs.active_for_thread(connection, PROJECT, THREAD.id))
    assert found == active


@pytest.mark.parametrize("status", sorted(TERMINAL_RUN_STATUSES))
async def test_run_that_is_over_frees_its_thread(database: Database, status: RunStatus) -> None:
    over = dataclasses.replace(RUN, status=status)
    await database.write(lambda tx: insert_all(tx, [(threads, THREAD), (runs, over)]))
    assert await database.read(lambda connection: runs.active_for_thread(connection, PROJECT, THREAD.id)) is None
    second = dataclasses.replace(RUN, id=ids.run_id(), status=RunStatus.QUEUED)
    await database.write(lambda tx: runs.insert(tx.connection, second))


async def test_expired_runs_are_found_and_so_is_the_next_to_expire(database: Database) -> None:
    def store(tx: Transaction) -> None:
        for minutes in (-1, 1, 2, None):
            thread = Thread(ids.thread_id(), PROJECT, TIME)
            expire_time = None if minutes is None else TIME + timedelta(minutes=minutes)
            threads.insert(tx.connection, thread)
            runs.insert(
                tx.connection,
                dataclasses.replace(RUN, id=ids.run_id(), thread_id=thread.id, expire_time=expire_time),
            )

    await database.write(store)
    expired = await database.read(lambda connection: runs.expired_before(connection, TIME))
    assert [run.expire_time for run in expired] == [TIME - timedelta(minutes=1)]
    upcoming = await database.read(lambda connection: runs.next_expiry(connection, TIME))
    assert upcoming == TIME + timedelta(minutes=1)
    latest = await database.read(lambda connection: runs.next_expiry(connection, TIME + timedelta(minutes=2)))
    assert latest is None


async def test_last_file_of_a_content_frees_its_blob(database: Database) -> None:
    shared = [dataclasses.replace(FILE, id=ids.file_id(), project=project) for project in (PROJECT, "other")]
    await database.write(lambda tx: insert_all(tx, [(files, file) for file in shared]))
    first = await database.write(lambda tx: files.delete(tx.connection, PROJECT, shared[0].id))
    assert first == files.DeletedFile(shared[0], frees_blob=False)
    second = await database.write(lambda tx: files.delete(tx.connection, "other", shared[1].id))
    assert second == files.DeletedFile(shared[1], frees_blob=True)
    assert await database.write(lambda tx: files.delete(tx.connection, "other", shared[1].id)) is None


async def test_get_many_finds_the_files_that_exist(database: Database) -> None:
    await database.write(lambda tx: files.insert(tx.connection, FILE))
    found = await database.read(lambda connection: files.get_many(connection, PROJECT, [FILE.id, "file-x"]))
    assert found == {FILE.id: FILE}
    assert await database.read(lambda connection: files.get_many(connection, "other", [FILE.id])) == {}
    assert await database.read(lambda connection: files.get_many(connection, PROJECT, [])) == {}


async def test_thread_is_read_from_its_end_page_by_page(database: Database) -> None:
    # Two of each moment, so that pages also end within one.
    written = [
        dataclasses.replace(MESSAGE, id=ids.message_id(), create_time=TIME + timedelta(seconds=number // 2))
        for number in range(99)
    ]
    # A run's own messages are not among those that it answers.
    written[95:] = [dataclasses.replace(message, run_id="run_own") for message in written[95:]]
    await database.write(lambda tx: insert_all(tx, [(threads, THREAD)]))
    await database.write(lambda tx: messages.insert(tx.connection, *written))

    def read(connection: Connection) -> tuple[list[Message], list[Message]]:
        own = messages.list_of_run(connection, PROJECT, THREAD.id, "run_own")
        return list(messages.newest_first(connection, PROJECT, THREAD.id, "run_own")), own

    others, own = await database.read(read)
    assert others == written[94::-1]
    assert own == written[95:]
    assert await database.read(lambda connection: messages.count(connection, PROJECT, THREAD.id)) == 99


async def test_thread_has_one_active_session(database: Database) -> None:
    await database.write(lambda tx: sessions.insert(tx.connection, SESSION))
    second = dataclasses.replace(SESSION, id=ids.session_id())
    with pytest.raises(IntegrityError):
        await database.write(lambda tx: sessions.insert(tx.connection, second))
    alone = [dataclasses.replace(SESSION, id=ids.session_id(), thread_id=None) for _ in range(2)]
    await database.write(lambda tx: insert_all(tx, [(sessions, session) for session in alone]))
    found = await database.read(lambda connection: sessions.active_for_thread(connection, PROJECT, THREAD.id))
    assert found == SESSION


async def test_lost_sessions_are_those_of_a_server_that_were_active(database: Database) -> None:
    closed = dataclasses.replace(SESSION, id=ids.session_id(), status=SessionStatus.CLOSED)
    other = dataclasses.replace(SESSION, id=ids.session_id(), thread_id=None, owner="another server")
    await database.write(lambda tx: insert_all(tx, [(sessions, SESSION), (sessions, closed), (sessions, other)]))
    later = TIME + timedelta(hours=1)
    assert await database.write(lambda tx: sessions.lose_of(tx.connection, SESSION.owner, later)) == 1
    lost = await database.read(lambda connection: sessions.get(connection, PROJECT, SESSION.id))
    assert lost == dataclasses.replace(SESSION, status=SessionStatus.LOST, close_time=later)
    assert await database.read(lambda connection: sessions.get(connection, PROJECT, closed.id)) == closed
    assert await database.read(lambda connection: sessions.get(connection, PROJECT, other.id)) == other
