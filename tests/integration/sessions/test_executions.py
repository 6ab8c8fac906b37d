"""Executions when their server ends, and when those who asked for them go."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from afarensis_server.domain.executions import ExecutionStatus, OutputItem
from afarensis_server.errors import ExecutionNotFound, SessionBusy, ShuttingDown
from afarensis_server.events.kinds import ExecutionLog
from afarensis_server.events.log import Heartbeat
from afarensis_server.sessions.executions import ExecutionRequest, Executions
from afarensis_server.store import executions as execution_rows
from afarensis_server.store import tables
from afarensis_server.store.database import Database
from tests.support.house import PROJECT, House, build

SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(60)"


@asynccontextmanager
async def opened(database: Database, directory: Path) -> AsyncIterator[tuple[House, Executions, str]]:
    async with (
        build(database, directory) as house,
        Executions(database, ExecutionLog(database), house.sessions) as executions,
    ):
        yield house, executions, (await house.sessions.create(PROJECT, None)).id


async def start(executions: Executions, request: ExecutionRequest) -> str:
    """Begin an execution, and leave it; its id."""
    async with aclosing(executions.stream(PROJECT, request, 60.0)) as items:
        async for item in items:
            if not isinstance(item, Heartbeat):
                return item.execution_id
    raise AssertionError("no event came")


async def begun(executions: Executions, execution_id: str) -> None:
    """Return once the code has printed."""
    async with aclosing(executions.follow_events(PROJECT, execution_id, 0, 60.0)) as items:
        async for item in items:
            if not isinstance(item, Heartbeat) and isinstance(item.event, OutputItem):
                return


async def test_server_that_ends_interrupts_code_and_says_so(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (_, executions, session_id):
        execution_id = await start(executions, ExecutionRequest(session_id, SLEEP))
        await begun(executions, execution_id)
        waiting = asyncio.create_task(executions.wait(PROJECT, execution_id))
    result = (await waiting).result
    assert result is not None
    assert result.error is not None
    assert result.status is ExecutionStatus.INTERRUPTED
    assert result.error.value.startswith("The server shut down while this code was running.")
    with pytest.raises(ShuttingDown):
        await start(executions, ExecutionRequest(session_id, "1"))


async def test_server_that_drains_lets_code_end(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (_, executions, session_id):
        code = "import time\nprint('begun', flush=True)\ntime.sleep(0.3)\nprint('ended')"
        execution_id = await start(executions, ExecutionRequest(session_id, code))
        await executions.drain(30.0)
        state = await executions.get(PROJECT, execution_id)
        assert state.result is not None
        assert state.result.status is ExecutionStatus.OK


async def test_execution_of_another_project_is_not_found(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (_, executions, session_id):
        execution_id = await start(executions, ExecutionRequest(session_id, SLEEP))
        for attempt in (
            executions.get("other", execution_id),
            executions.wait("other", execution_id),
            executions.interrupt("other", execution_id),
            executions.list_events("other", execution_id, 0, 1),
            anext(executions.follow_events("other", execution_id, 0, 1.0)),
        ):
            with pytest.raises(ExecutionNotFound):
                await attempt


async def test_code_that_was_given_up_before_it_was_stored_does_not_run(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (house, executions, session_id):
        release = threading.Event()
        holding = asyncio.create_task(database.write(lambda _: release.wait(), long=True))
        request = ExecutionRequest(session_id, "open('ran.txt', 'w')", request_id="once")
        stream = executions.stream(PROJECT, request, 60.0, interrupt_when_left=True)
        reading = asyncio.ensure_future(anext(stream))
        live = await house.sessions.live(PROJECT, session_id)
        while not live.execution_id:
            await database.read(lambda _: None)
        reading.cancel()
        await asyncio.wait({reading})
        release.set()
        await holding
        # Asking again gives what became of it.
        state = await executions.wait(PROJECT, await start(executions, request))
        assert state.result is not None
        assert state.result.status is ExecutionStatus.INTERRUPTED
        assert await live.sandbox.list_files() == []


async def test_interrupting_what_has_ended_leaves_the_next_alone(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (_, executions, session_id):
        ended = await start(executions, ExecutionRequest(session_id, "1"))
        await executions.wait(PROJECT, ended)
        code = "import time\nprint('begun', flush=True)\ntime.sleep(0.2)"
        running = await start(executions, ExecutionRequest(session_id, code))
        await begun(executions, running)
        await executions.interrupt(PROJECT, ended)
        result = (await executions.wait(PROJECT, running)).result
        assert result is not None
        assert result.status is ExecutionStatus.OK


async def test_of_executions_that_come_while_files_are_put_in_one_is_taken(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (house, executions, session_id):
        live = await house.sessions.live(PROJECT, session_id)
        # As adding files does.
        async with live.turn:
            first = asyncio.create_task(executions.run(PROJECT, ExecutionRequest(session_id, "print('first')")))
            second = asyncio.create_task(executions.run(PROJECT, ExecutionRequest(session_id, "print('second')")))
            with pytest.raises(SessionBusy):
                await second
        state = await first
        assert [item.text for item in state.outputs if isinstance(item, OutputItem)] == ["first\n"]
        assert (await executions.run(PROJECT, ExecutionRequest(session_id, "1"))).result is not None


async def test_execution_that_gave_up_its_wait_does_not_keep_others_out(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path) as (house, executions, session_id):
        live = await house.sessions.live(PROJECT, session_id)
        async with live.turn:
            gone = asyncio.create_task(anext(house.sessions.execute(live, "1")))
            await asyncio.sleep(0)
            assert live.busy_with
            gone.cancel()
            await asyncio.wait([gone])
            assert not live.busy_with
        assert (await executions.run(PROJECT, ExecutionRequest(session_id, "1"))).result is not None


async def test_executions_of_before_sessions_named_their_servers_are_ended_by_the_next_start(
    database: Database, tmp_path: Path
) -> None:
    async with opened(database, tmp_path) as (_, executions, session_id):
        execution_id = await start(executions, ExecutionRequest(session_id, SLEEP))

        async def found_by(server: str) -> list[tuple[str, str]]:
            return await database.read(lambda connection: execution_rows.unfinished_of(connection, server))

        assert (await found_by("server_1"), await found_by("server_2")) == ([(PROJECT, execution_id)], [])
        await database.write(lambda tx: tx.connection.execute(tables.sessions.update().values(owner="")))
        assert await found_by("server_2") == [(PROJECT, execution_id)]
