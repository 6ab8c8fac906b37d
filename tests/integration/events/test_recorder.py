"""What is committed together, and what is left when a commit fails."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.executions import (
    DisplayItem,
    Execution,
    ExecutionEvent,
    ExecutionEventType,
    ExecutionResult,
    ExecutionStatus,
    FileChangeKind,
    FileItem,
    LoggedExecutionEvent,
    OutputItem,
    OutputStream,
    Representation,
    Started,
    merge_outputs,
)
from afarensis_server.domain.sessions import Session, SessionStatus
from afarensis_server.events.kinds import ExecutionLog
from afarensis_server.events.log import Heartbeat
from afarensis_server.events.recorder import Recorder
from afarensis_server.events.tail import Tail
from afarensis_server.store import executions, sessions
from afarensis_server.store.database import Database, Transaction
from tests.support.sandbox import LIMITS

PROJECT = "default"
TIME = now()
RESULT = ExecutionResult(ExecutionStatus.OK, 0.1)


@pytest.fixture
async def execution(database: Database) -> Execution:
    session = Session("sess_x", PROJECT, TIME, SessionStatus.ACTIVE, None, LIMITS, 1.0, 1.0, TIME, TIME)
    await database.write(lambda tx: sessions.insert(tx.connection, session))
    return Execution(ids.execution_id(), PROJECT, TIME, "sess_x", "1")


@pytest.fixture
def log(database: Database) -> ExecutionLog:
    return ExecutionLog(database)


def recorder(
    database: Database, log: ExecutionLog, execution: Execution, opening: Callable[[Transaction], None] | None = None
) -> Recorder[ExecutionEvent, LoggedExecutionEvent]:
    def merge(first: ExecutionEvent, second: ExecutionEvent) -> ExecutionEvent | None:
        if isinstance(first, OutputItem) and isinstance(second, OutputItem):
            return merge_outputs(first, second, 10)
        return None

    def insert(tx: Transaction) -> None:
        executions.insert(tx.connection, execution)

    return Recorder(database, log, PROJECT, execution.id, merge, opening=opening or insert)


def out(text: str) -> OutputItem:
    return OutputItem(OutputStream.STDOUT, text)


async def test_every_kind_of_event_comes_back_as_it_went_in(
    database: Database, log: ExecutionLog, execution: Execution
) -> None:
    events: list[ExecutionEvent] = [
        Started(execution.id, True),
        OutputItem(OutputStream.STDERR, "é\n", 3),
        DisplayItem((Representation("image/png", data=b"\x89\0\xff", file_id="file-x"),)),
        FileItem("/mnt/data/a", FileChangeKind.DELETED),
        RESULT,
    ]
    writing = recorder(database, log, execution)
    for event in events:
        await writing.emit(event)
    await writing.close()
    stored = await log.read_all(PROJECT, execution.id)
    assert [(logged.sequence, logged.event) for logged in stored] == list(enumerate(events, 1))
    # Who comes later reads the same from the table as who waited.
    assert [item async for item in log.follow(PROJECT, execution.id, 0, 3600.0)] == [Heartbeat(5), *stored]


async def test_all_that_waits_is_committed_with_the_next_record(
    database: Database, log: ExecutionLog, execution: Execution
) -> None:
    writing = recorder(database, log, execution)
    for event in (Started(execution.id), out("ab"), out("cd"), out("0123456789")):
        await writing.emit(event)
    # Nothing was awaited in between that lets the background commit begin.
    await writing.record(lambda _, told: told.append(RESULT))
    events = [logged.event for logged in await log.read_all(PROJECT, execution.id)]
    assert events == [Started(execution.id), out("abcd"), out("0123456789"), RESULT]


async def test_record_that_fails_leaves_what_came_before_it(
    database: Database, log: ExecutionLog, execution: Execution
) -> None:
    writing = recorder(database, log, execution)
    await writing.emit(Started(execution.id))

    def fail(tx: Transaction, told: list[ExecutionEvent]) -> None:
        told.append(RESULT)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await writing.record(fail)
    assert [logged.event for logged in await log.read_all(PROJECT, execution.id)] == [Started(execution.id)]


async def test_events_whose_commit_failed_are_in_the_next_one(
    database: Database, log: ExecutionLog, execution: Execution
) -> None:
    failures = [ValueError("once")]

    def insert(tx: Transaction) -> None:
        if failures:
            raise failures.pop()
        executions.insert(tx.connection, execution)

    writing = recorder(database, log, execution, insert)
    await writing.emit(Started(execution.id))
    with pytest.raises(ValueError, match="once"):
        await writing.flush()
    await writing.record(lambda _, told: told.append(RESULT))
    assert [logged.event for logged in await log.read_all(PROJECT, execution.id)] == [Started(execution.id), RESULT]


async def test_reader_that_waits_is_handed_what_was_stored_without_reading(
    database: Database, log: ExecutionLog, execution: Execution
) -> None:
    writing = recorder(database, log, execution)
    await writing.emit(Started(execution.id))
    await writing.flush()
    items = log.follow(PROJECT, execution.id, 0, 3600.0)
    release = threading.Event()
    # Every thread that reads is busy until the end.
    held = [asyncio.ensure_future(database.read(lambda _: release.wait())) for _ in range(32)]
    assert await anext(items) == Heartbeat(1)
    waiting = asyncio.ensure_future(anext(items))
    await writing.record(lambda _, told: told.append(RESULT))
    assert (await waiting, (await anext(items))) == tuple(
        LoggedExecutionEvent(execution.id, logged.sequence, logged.create_time, logged.type, logged.event)
        for logged in log.tail(PROJECT, execution.id).after(0) or []
    )
    await items.aclose()
    release.set()
    await asyncio.gather(*held)


def test_tail_knows_only_what_has_no_gap_and_is_not_too_much() -> None:
    def logged(sequence: int) -> LoggedExecutionEvent:
        return LoggedExecutionEvent("exec_x", sequence, TIME, ExecutionEventType.OUTPUT, out("x"))

    tail: Tail[LoggedExecutionEvent] = Tail()
    assert tail.after(0) is None
    tail.add([logged(1), logged(2)], [10, 10], False)
    assert tail.after(0) == [logged(1), logged(2)]
    assert [tail.after(0, most) for most in (1, 2, 3)] == [[logged(1)], *[[logged(1), logged(2)]] * 2]
    assert tail.after(1, 1) == [logged(2)]
    assert tail.after(2) == []
    assert tail.after(3) is None
    # Another server wrote the third.
    tail.add([logged(4)], [10], False)
    assert (tail.after(2), tail.after(3)) == (None, [logged(4)])
    # Few logs may remember more, each of them.
    tail.add([logged(5)], [2**22], False, logs=1)
    assert tail.after(4) == [logged(5)]
    tail.add([logged(6), logged(7)], [2**19, 2**19], False, logs=64)
    assert (tail.after(4), tail.after(5)) == (None, [logged(6), logged(7)])
    tail.add([logged(8)], [2**23 + 1], True, logs=1)
    assert (tail.after(7), tail.after(8)) == (None, [])
