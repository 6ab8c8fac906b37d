"""What readers of a run's log see, whenever they come."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.events import (
    CodeInterpreterCallDelta,
    EventDraft,
    EventPayload,
    EventType,
    FunctionCallDelta,
    MessageContentDelta,
    MessageDelta,
    OutputDelta,
    RunEvent,
    RunStepDelta,
)
from afarensis_server.domain.executions import (
    DisplayItem,
    ExecutionResult,
    ExecutionStatus,
    OutputItem,
    OutputStream,
    Representation,
)
from afarensis_server.domain.runs import MessageCreation, Run, RunStatus, RunStep, StepStatus
from afarensis_server.domain.threads import Message, MessageRole, MessageStatus, TextContent, Thread
from afarensis_server.errors import CursorPastEnd, RunNotFound, ShuttingDown
from afarensis_server.events.kinds import RunLog
from afarensis_server.events.log import Heartbeat, LogEnded
from afarensis_server.store import runs, threads
from afarensis_server.store.database import Database, Transaction

PROJECT = "default"
TIME = now()
#: Longer than any test: no heartbeat but the first.
NEVER = 3600.0


@pytest.fixture
def log(database: Database) -> RunLog:
    return RunLog(database)


async def new_run(database: Database) -> Run:
    thread = Thread(ids.thread_id(), PROJECT, TIME)
    run = Run(ids.run_id(), PROJECT, thread.id, "asst_x", TIME, RunStatus.QUEUED, "direct")
    await database.write(lambda tx: threads.insert(tx.connection, thread))
    await database.write(lambda tx: runs.insert(tx.connection, run))
    return run


@pytest.fixture
async def run(database: Database) -> Run:
    return await new_run(database)


def token(text: str = "a") -> EventDraft:
    delta = MessageDelta("msg_x", (MessageContentDelta(0, TextContent(text)),))
    return EventDraft(EventType.MESSAGE_DELTA, delta)


def end(run: Run) -> EventDraft:
    return EventDraft(EventType.RUN_COMPLETED, run)


async def append(database: Database, log: RunLog, run: Run, *drafts: EventDraft) -> list[RunEvent]:
    return await database.write(lambda tx: log.append(tx, PROJECT, run.id, drafts))


async def collect(items: AsyncIterator[RunEvent | Heartbeat]) -> list[int]:
    return [item.sequence async for item in items if isinstance(item, RunEvent)]


async def followed(log: RunLog, count: int = 1) -> None:
    """Return once so many runs have followers that wait for their next event."""
    while sum(bool(tail.waiters) for tail in log._tails.values()) < count:  # noqa: ASYNC110  a follower tells nobody that it waits
        await asyncio.sleep(0)


PAYLOADS: list[tuple[EventType, EventPayload]] = [
    (EventType.THREAD_CREATED, Thread("thread_x", PROJECT, TIME)),
    (EventType.RUN_CREATED, Run("run_x", PROJECT, "thread_x", "asst_x", TIME, RunStatus.QUEUED, "direct")),
    (
        EventType.STEP_CREATED,
        RunStep(
            "step_x", PROJECT, "run_x", "thread_x", "asst_x", TIME, StepStatus.IN_PROGRESS, MessageCreation("msg_x")
        ),
    ),
    (
        EventType.STEP_DELTA,
        RunStepDelta(
            "step_x",
            (
                CodeInterpreterCallDelta(
                    0,
                    "call_x",
                    outputs=(
                        OutputDelta(0, OutputItem(OutputStream.STDOUT, "é\n")),
                        OutputDelta(1, DisplayItem((Representation("image/png", data=b"\x89\0\xff"),))),
                    ),
                    result=ExecutionResult(ExecutionStatus.OK, 0.1),
                ),
                FunctionCallDelta(1, "call_y", "f", '{"a'),
            ),
        ),
    ),
    (
        EventType.MESSAGE_COMPLETED,
        Message("msg_x", PROJECT, "thread_x", TIME, MessageRole.ASSISTANT, MessageStatus.COMPLETED, ()),
    ),
    (EventType.MESSAGE_DELTA, MessageDelta("msg_x", (MessageContentDelta(0, TextContent("x")),))),
]


@pytest.mark.parametrize(("event_type", "payload"), PAYLOADS, ids=[event_type for event_type, _ in PAYLOADS])
async def test_payload_comes_back_as_it_went_in(
    database: Database, log: RunLog, run: Run, event_type: EventType, payload: EventPayload
) -> None:
    stored = await append(database, log, run, EventDraft(event_type, payload))
    assert await log.read_all(PROJECT, run.id) == stored
    assert stored[0].payload == payload


async def test_sequences_start_at_1_and_have_no_gaps(database: Database, log: RunLog, run: Run) -> None:
    first = await append(database, log, run, token(), token())
    second = await append(database, log, run, token())
    assert [event.sequence for event in first + second] == [1, 2, 3]
    assert await log.last_sequence(PROJECT, run.id) == 3


async def test_each_run_counts_for_itself(database: Database, log: RunLog) -> None:
    several = [await new_run(database) for _ in range(20)]
    await asyncio.gather(*(append(database, log, run, token(), token()) for run in several for _ in range(5)))
    for run in several:
        events = await log.read_all(PROJECT, run.id)
        assert [event.sequence for event in events] == list(range(1, 11))


async def test_unit_that_fails_uses_up_no_sequence(database: Database, log: RunLog, run: Run) -> None:
    def fail(tx: Transaction) -> None:
        log.append(tx, PROJECT, run.id, [token()])
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fail)
    assert [event.sequence for event in await append(database, log, run, token())] == [1]


async def test_nothing_to_append_is_nothing(database: Database, log: RunLog, run: Run) -> None:
    assert await append(database, log, run) == []
    assert await log.last_sequence(PROJECT, run.id) == 0


async def test_nothing_follows_the_end(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, end(run))
    with pytest.raises(LogEnded):
        await append(database, log, run, token())
    assert await log.last_sequence(PROJECT, run.id) == 1


async def test_end_must_be_the_last_of_its_append(database: Database, log: RunLog, run: Run) -> None:
    with pytest.raises(LogEnded):
        await append(database, log, run, end(run), token())
    assert await log.last_sequence(PROJECT, run.id) == 0


async def test_run_that_is_not_there_is_not_found(database: Database, log: RunLog, run: Run) -> None:
    for project, run_id in ((PROJECT, "run_none"), ("other", run.id)):
        with pytest.raises(RunNotFound):
            await log.last_sequence(project, run_id)
        with pytest.raises(RunNotFound):
            await database.write(lambda tx: log.append(tx, project, run_id, [token()]))  # noqa: B023
        with pytest.raises(RunNotFound):
            await collect(log.follow(project, run_id, 0, NEVER))
        with pytest.raises(RunNotFound):
            await log.page(project, run_id, 0, 10)


async def test_read_gives_so_many_behind_the_cursor(database: Database, log: RunLog, run: Run) -> None:
    stored = await append(database, log, run, *(token(str(number)) for number in range(10)))
    assert (await log.page(PROJECT, run.id, 3, 4)).events == stored[3:7]
    assert (await log.page(PROJECT, run.id, 10, 4)).events == []


async def test_first_item_is_a_heartbeat(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, token(), token())
    async with aclosing(log.follow(PROJECT, run.id, 1, NEVER)) as items:
        assert await anext(items) == Heartbeat(2)


async def test_follower_of_a_run_that_is_over_gets_all_of_it(database: Database, log: RunLog, run: Run) -> None:
    stored = await append(database, log, run, token(), token(), end(run))
    assert [item async for item in log.follow(PROJECT, run.id, 0, NEVER)] == [Heartbeat(3), *stored]


async def test_follower_at_the_end_of_a_run_that_is_over_ends(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, token(), end(run))
    assert [item async for item in log.follow(PROJECT, run.id, 2, NEVER)] == [Heartbeat(2, is_last=True)]


async def test_cursor_past_the_end_is_refused(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, token())
    with pytest.raises(CursorPastEnd, match="no event 2 yet: the last one is 1"):
        await collect(log.follow(PROJECT, run.id, 2, NEVER))


async def test_follower_sees_what_comes_live(database: Database, log: RunLog, run: Run) -> None:
    async with aclosing(log.follow(PROJECT, run.id, 0, NEVER)) as items:
        assert await anext(items) == Heartbeat(0)
        for number in range(1, 4):
            waiting = asyncio.ensure_future(anext(items))
            (event,) = await append(database, log, run, token(str(number)))
            assert await waiting == event


async def test_long_log_is_read_in_order_to_its_end(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, *(token() for _ in range(1000)), end(run))
    assert await collect(log.follow(PROJECT, run.id, 0, NEVER)) == list(range(1, 1002))


async def test_every_follower_sees_each_event_once_in_order(database: Database, log: RunLog, run: Run) -> None:
    """Readers that come while events are appended, some of them slow."""

    async def write() -> None:
        for _ in range(50):
            await append(database, log, run, token(), token(), token())
        await append(database, log, run, end(run))

    async def follow(after: int, pauses: int) -> list[int]:
        seen = []
        async for item in log.follow(PROJECT, run.id, after, NEVER):
            if isinstance(item, RunEvent):
                seen.append(item.sequence)
            for _ in range(pauses):
                await asyncio.sleep(0)
        return seen

    async def come_late(pauses: int) -> tuple[int, list[int]]:
        after = await log.last_sequence(PROJECT, run.id)
        return after, await follow(after, pauses)

    writing = asyncio.create_task(write())
    readers = []
    for number in range(40):
        readers.append(asyncio.create_task(come_late(number % 7)))
        await log.last_sequence(PROJECT, run.id)
    await writing
    for after, seen in await asyncio.gather(*readers):
        assert seen == list(range(after + 1, 152))


async def test_reader_that_comes_back_misses_nothing(database: Database, log: RunLog, run: Run) -> None:
    stored = await append(database, log, run, *(token() for _ in range(5)), end(run))
    async with aclosing(log.follow(PROJECT, run.id, 0, NEVER)) as items:
        await anext(items)
        handled = [await anext(items) for _ in range(3)]
    assert handled == stored[:3]
    assert await collect(log.follow(PROJECT, run.id, 3, NEVER)) == [4, 5, 6]


async def test_heartbeats_come_while_nothing_happens(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, token())
    async with aclosing(log.follow(PROJECT, run.id, 1, 0.01)) as items:
        assert [await anext(items) for _ in range(3)] == [Heartbeat(1)] * 3


async def test_append_of_another_process_is_seen_with_the_next_heartbeat(
    database: Database, log: RunLog, run: Run, tmp_path: Path
) -> None:
    elsewhere = RunLog(database)
    async with aclosing(log.follow(PROJECT, run.id, 0, 0.01)) as items:
        await anext(items)
        await append(database, elsewhere, run, token())
        seen = [item async for item in until_event(items)]
    assert [item.sequence for item in seen if isinstance(item, RunEvent)] == [1]


async def until_event(items: AsyncIterator[RunEvent | Heartbeat]) -> AsyncIterator[RunEvent | Heartbeat]:
    async for item in items:
        yield item
        if isinstance(item, RunEvent):
            return


async def test_draining_lets_every_follower_go(database: Database, log: RunLog, run: Run) -> None:
    await append(database, log, run, token())
    others = [await new_run(database) for _ in range(3)]
    followers = [asyncio.create_task(collect(log.follow(PROJECT, each.id, 0, NEVER))) for each in [run, run, *others]]
    await followed(log, 4)
    log.drain()
    results = await asyncio.gather(*followers, return_exceptions=True)
    assert [type(result) for result in results] == [ShuttingDown] * 5


async def test_follower_that_comes_while_draining_gets_what_is_stored(
    database: Database, log: RunLog, run: Run
) -> None:
    await append(database, log, run, token())
    log.drain()
    async with aclosing(log.follow(PROJECT, run.id, 0, NEVER)) as items:
        assert await anext(items) == Heartbeat(1)
        assert [item.sequence for item in [await anext(items)] if isinstance(item, RunEvent)] == [1]
        with pytest.raises(ShuttingDown):
            await anext(items)


async def test_follower_learns_that_its_run_was_deleted(database: Database, log: RunLog, run: Run) -> None:
    async with aclosing(log.follow(PROJECT, run.id, 0, NEVER)) as items:
        await anext(items)
        waiting = asyncio.ensure_future(anext(items))
        await followed(log)
        await database.write(lambda tx: threads.delete(tx.connection, PROJECT, run.thread_id))
        log.deleted(PROJECT, run.id)
        with pytest.raises(RunNotFound):
            await waiting


async def test_follower_that_is_told_old_events_meanwhile_learns_it_as_soon(
    database: Database, log: RunLog, run: Run
) -> None:
    tail = log.tail(PROJECT, run.id)
    for _ in range(50):
        await append(database, log, run, token())
    async with aclosing(log.follow(PROJECT, run.id, 0, NEVER)) as items:
        for _ in range(10):
            await anext(items)
        await database.write(lambda tx: threads.delete(tx.connection, PROJECT, run.thread_id))
        log.deleted(PROJECT, run.id)
        with pytest.raises(RunNotFound):
            async for _ in items:
                pass
    del tail


async def test_followers_that_have_left_leave_nothing_behind(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path / 'left.db'}") as database:
        log, run = RunLog(database), await new_run(database)
        followers = [asyncio.create_task(collect(log.follow(PROJECT, run.id, 0, NEVER))) for _ in range(3)]
        await followed(log)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        del followers, follower
    # No read is under way any more.
    gc.collect()
    assert len(log._tails) == 0


async def test_cancelled_follower_does_not_disturb_the_others(database: Database, log: RunLog, run: Run) -> None:
    leaving, staying = (asyncio.create_task(collect(log.follow(PROJECT, run.id, 0, NEVER))) for _ in range(2))
    await followed(log)
    leaving.cancel()
    await append(database, log, run, end(run))
    assert await staying == [1]


APPEND_UNTIL_KILLED = """
import asyncio, os, signal, sys
from afarensis_server.domain.events import *
from afarensis_server.domain.threads import TextContent
from afarensis_server.events.kinds import RunLog
from afarensis_server.store.database import Database

async def append(database, log, run_id):
    draft = EventDraft(EventType.MESSAGE_DELTA, MessageDelta("m", (MessageContentDelta(0, TextContent("x")),)))
    while True:
        events = await database.write(lambda tx: log.append(tx, "default", run_id, [draft, draft]))
        print(run_id, events[-1].sequence, flush=True)
        if events[-1].sequence >= 100:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Database(sys.argv[1]) as database:
        log = RunLog(database)
        await asyncio.gather(*(append(database, log, run_id) for run_id in sys.argv[2:]))

asyncio.run(main())
"""


async def test_killed_writer_leaves_no_gap_and_loses_nothing_it_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    async with Database(url) as database:
        run_ids = [(await new_run(database)).id for _ in range(5)]
    command: Sequence[str] = [sys.executable, "-c", APPEND_UNTIL_KILLED, url, *run_ids]
    died = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert died.returncode == -9, died.stderr
    told = dict(line.split() for line in died.stdout.splitlines())
    async with Database(url) as database:
        log = RunLog(database)
        for run_id in run_ids:
            sequences = [event.sequence for event in await log.read_all(PROJECT, run_id)]
            assert sequences == list(range(1, len(sequences) + 1))
            assert len(sequences) % 2 == 0
            assert len(sequences) >= int(told[run_id])
            assert await log.last_sequence(PROJECT, run_id) == len(sequences)
