"""What the engine outlives: a database that cannot be written to, clocks that are set."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from afarensis_server.clock import now
from afarensis_server.domain.events import EventType
from afarensis_server.domain.runs import RunStatus
from afarensis_server.runs.engine import EngineSettings
from afarensis_server.store import tables
from afarensis_server.store.database import Database
from tests.support.scripted_model import ScriptedModel, Wait, call, text

from .conftest import LOOKUP, PROJECT, build


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """One that does not wait long for a lock."""
    async with Database(f"sqlite:///{tmp_path}/afarensis.db", busy_seconds=0.01) as opened:
        yield opened


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Another process holds the write lock, as a backup does."""
    connection = sqlite3.connect(directory / "afarensis.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def wait_for_complaints(logs: Sequence[object]) -> None:
    while not logs:  # noqa: ASYNC110  # a log wakes nobody
        await asyncio.sleep(0.01)


async def test_runs_are_begun_after_the_database_was_away(database: Database, tmp_path: Path) -> None:
    async with ScriptedModel([text("Hi")]) as endpoint, build(database, tmp_path, endpoint) as house:
        with capture_logs() as logs, locked(tmp_path):
            house.engine.wake()
            await asyncio.wait_for(wait_for_complaints(logs), 10)
        assert (await house.settled(await house.run())).status is RunStatus.COMPLETED


async def test_runs_expire_after_the_database_was_away(database: Database, tmp_path: Path) -> None:
    async with ScriptedModel([call("lookup", {"word": "x"})]) as endpoint, build(database, tmp_path, endpoint) as house:
        run = await house.settled(await house.run(LOOKUP, ttl_seconds=2.0))
        assert run.status is RunStatus.REQUIRES_ACTION
        with capture_logs() as logs, locked(tmp_path):
            await asyncio.wait_for(wait_for_complaints(logs), 10)
        assert (await asyncio.wait_for(house.events(run), 10))[-1].type is EventType.RUN_EXPIRED


async def test_a_run_at_work_is_not_begun_twice_though_its_lease_ran_out(database: Database, tmp_path: Path) -> None:
    answer = asyncio.Event()
    script = [text("Once").then(Wait(answer)), text("Another"), text("Twice")]
    async with (
        ScriptedModel(script) as endpoint,
        build(database, tmp_path, endpoint, EngineSettings(lease_seconds=3_600.0)) as house,
    ):
        run = await house.run()
        while not endpoint.requests:
            await house.runs.wait(PROJECT, run.id, 0.05)
        # As if the clock had been set forward.
        over = tables.run_queue.update().values(lease_until=now() - timedelta(hours=1))
        await database.write(lambda tx: tx.connection.execute(over).rowcount)
        await house.settled(await house.run())
        answer.set()
        assert (await house.settled(run)).status is RunStatus.COMPLETED
        assert len(endpoint.requests) == 2


async def test_a_run_that_waits_for_a_worker_is_cancelled_at_once(database: Database, tmp_path: Path) -> None:
    answer = asyncio.Event()
    async with (
        ScriptedModel([text("First").then(Wait(answer)), text("Third")]) as endpoint,
        build(database, tmp_path, endpoint, EngineSettings(concurrent_runs=1)) as house,
    ):
        first, second, third = [await house.run() for _ in range(3)]
        assert (await house.runs.cancel(PROJECT, second.id)).status is RunStatus.CANCELLED
        told = [event.type for event in await house.events(second)]
        assert told == [
            EventType.RUN_CREATED,
            EventType.RUN_QUEUED,
            EventType.RUN_CANCELLING,
            EventType.RUN_CANCELLED,
        ]
        answer.set()
        # The one behind it moves up, and nobody has asked the model for it.
        for run in (first, third):
            assert (await house.settled(run)).status is RunStatus.COMPLETED
        assert len(endpoint.requests) == 2
