"""Workers that slept through the end of their lease: what another one has taken up since is none of theirs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from afarensis_server.clock import now
from afarensis_server.domain.events import EventType, RunEvent
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.sessions import SessionStatus
from afarensis_server.domain.tools import CodeInterpreterTool
from afarensis_server.runs.engine import EngineSettings
from afarensis_server.store import queue, tables
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from afarensis_server.store.queue import Claim
from tests.support.scripted_model import Cut, Delta, ScriptedModel, Step, Wait, call, code, text

from .conftest import LOOKUP, PROJECT, Build, House, build

#: Never renewed within a test: whoever holds it seems asleep.
ASLEEP = EngineSettings(lease_seconds=3_600.0)
STORED = (tables.runs, tables.run_steps, tables.messages, tables.events, tables.event_logs, tables.run_queue)


async def everything(database: Database) -> dict[str, list[Any]]:
    """All rows that a worker writes."""
    return await database.read(
        lambda connection: {table.name: [tuple(row) for row in connection.execute(table.select())] for table in STORED}
    )


async def until(house: House, run: Run, kind: EventType, words: str = "") -> None:
    async for item in house.runs.follow_events(PROJECT, run.id, 0, 60.0):
        if isinstance(item, RunEvent) and item.type is kind and words in str(item.payload):
            return


async def end_leases(database: Database) -> None:
    over = tables.run_queue.update().values(lease_until=now() - timedelta(hours=1))
    await database.write(lambda tx: tx.connection.execute(over).rowcount)


async def take_over(database: Database) -> list[Claim]:
    """Claim everything as another worker would that came when all leases were over."""
    late = now() + timedelta(hours=2)
    return await database.write(
        lambda tx: queue.claim(tx.connection, "worker_2", late, late + timedelta(hours=1), limit=10)
    )


@asynccontextmanager
async def another(directory: Path, endpoint: ScriptedModel) -> AsyncIterator[House]:
    """A second server on the same database."""
    async with (
        Database(f"sqlite:///{directory}/afarensis.db") as database,
        build(database, directory / "other", endpoint, owner="worker_2") as house,
    ):
        yield house


@pytest.mark.parametrize(
    "rest",
    [
        [Delta({"content": " and the rest."})],
        [Delta({"content": " and on"}) for _ in range(200)],
        list(call("lookup", {"word": "x"}).steps),
        list(code("print(1)").steps),
        [Cut()],
        [],
    ],
    ids=["words", "many words", "function", "code", "failure", "end"],
)
async def test_worker_that_wakes_too_late_writes_nothing(database: Database, tmp_path: Path, rest: list[Step]) -> None:
    """Also where the other one is still at it, so that nothing is over yet."""
    wake, go_on = asyncio.Event(), asyncio.Event()
    script = [text("The first").then(Wait(wake), *rest), text("The second").then(Wait(go_on))]
    async with (
        ScriptedModel(script) as endpoint,
        build(database, tmp_path, endpoint, ASLEEP) as first,
    ):
        run = await first.run(LOOKUP, CodeInterpreterTool())
        await until(first, run, EventType.MESSAGE_DELTA)
        await end_leases(database)
        async with another(tmp_path, endpoint) as second:
            await until(second, run, EventType.MESSAGE_DELTA, "The second")
            before = await everything(database)
            with capture_logs() as logs:
                wake.set()
                await first.engine.drain(20.0)
            assert await everything(database) == before
            go_on.set()
            assert (await second.settled(run)).status is RunStatus.COMPLETED
    assert [line["event"] for line in logs if line["log_level"] != "info"] == [
        "run let go: it was deleted, or taken over"
    ]


async def test_worker_that_lost_its_lease_is_stopped_before_it_wakes(database: Database, tmp_path: Path) -> None:
    async with (
        ScriptedModel([text("The first").then(Wait(asyncio.Event()))]) as endpoint,
        build(database, tmp_path, endpoint, EngineSettings(lease_seconds=0.3)) as house,
    ):
        run = await house.run()
        await until(house, run, EventType.MESSAGE_DELTA)
        await take_over(database)
        before = await everything(database)
        await asyncio.wait_for(endpoint.requests[0].abandoned.wait(), 10)
        await house.engine.drain(10.0)
        assert await everything(database) == before


async def test_code_of_a_run_that_was_lost_is_killed(database: Database, house_with_sandbox: Build) -> None:
    house = await house_with_sandbox([code("print('it runs')\nwhile True: print(1)")])
    run = await house.run(CodeInterpreterTool())
    await until(house, run, EventType.STEP_DELTA, "it runs\\n")
    await take_over(database)
    before = await everything(database)
    await house.engine.drain(20.0)
    assert await everything(database) == before
    (session,) = (await house.sessions.list(PROJECT, PageRequest())).items
    assert session.status is SessionStatus.CLOSED


async def test_server_does_not_take_the_runs_of_another_that_lives(database: Database, tmp_path: Path) -> None:
    answer = asyncio.Event()
    async with (
        ScriptedModel([text("The first").then(Wait(answer)), text("Never asked.")]) as endpoint,
        build(database, tmp_path, endpoint, ASLEEP) as first,
    ):
        run = await first.run()
        await until(first, run, EventType.MESSAGE_DELTA)
        async with another(tmp_path, endpoint) as second:
            second.engine.wake()
            answer.set()
            assert (await first.settled(run)).status is RunStatus.COMPLETED
    assert len(endpoint.requests) == 1


async def test_run_whose_time_is_over_is_left_to_the_server_that_works_on_it(
    database: Database, tmp_path: Path
) -> None:
    """Only that one knows how far its answer has come."""
    async with (
        ScriptedModel([text("The first").then(Wait(asyncio.Event()))]) as endpoint,
        build(database, tmp_path, endpoint, ASLEEP) as first,
        another(tmp_path, endpoint) as second,
    ):
        run = await first.run(ttl_seconds=2.0)
        await until(first, run, EventType.MESSAGE_DELTA)
        second.engine.wake(now())
        events = await first.events(run)
    assert events[-1].type is EventType.RUN_EXPIRED
    assert [event.type for event in events].count(EventType.RUN_EXPIRED) == 1
