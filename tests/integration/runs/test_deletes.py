"""Threads, assistants and files that are deleted while something goes on with them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from afarensis_server.clock import now
from afarensis_server.domain.events import EventType, RunEvent
from afarensis_server.domain.runs import RunStatus
from afarensis_server.domain.tools import CodeInterpreterTool, ToolResources
from afarensis_server.errors import AssistantNotFound, DomainError, RunNotFound, ThreadNotFound
from afarensis_server.files.service import UploadHead
from afarensis_server.sandbox.driver import SandboxSession, SessionSpec
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from afarensis_server.store import tables
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from tests.support.sandbox import LIMITS, guest_python
from tests.support.scripted_model import ScriptedModel, Wait, call, code, text

from .conftest import LOOKUP, PROJECT, Build, House, build


async def rows(house: House) -> dict[str, int]:
    """What is left of threads."""
    stored = (tables.threads, tables.messages, tables.runs, tables.run_steps, tables.events, tables.run_queue)
    return await house.database.read(
        lambda connection: {table.name: len(connection.execute(table.select()).all()) for table in stored}
    )


async def test_run_of_an_assistant_that_is_deleted_goes_on(house: Build) -> None:
    answer = asyncio.Event()
    built = await house([text("It goes ").then(Wait(answer)), text("Never.")])
    run = await built.run()
    while not built.endpoint.requests:
        await built.runs.wait(PROJECT, run.id, 0.05)
    await built.assistants.delete(PROJECT, run.assistant_id)
    answer.set()
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    with pytest.raises(AssistantNotFound):
        await built.runs.create(PROJECT, run.thread_id, {"assistant_id": run.assistant_id})


async def test_run_goes_without_a_file_whose_time_is_over(house: Build) -> None:
    built = await house([text("Hi.")])
    over, left = [await built.files.create(PROJECT, UploadHead("a.csv", ttl_seconds=3_600), b"1") for _ in range(2)]
    columns = tables.files.c
    ended = tables.files.update().where(columns.id == over.id).values(expire_time=now())
    thread = await built.threads.create(PROJECT, {"tool_resources": ToolResources((over.id, left.id))}, [{"text": "?"}])
    await built.database.write(lambda tx: tx.connection.execute(ended).rowcount)
    assistant = await built.assistant(CodeInterpreterTool())
    run = await built.settled(await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}))
    assert run.status is RunStatus.COMPLETED
    assert run.tool_resources == ToolResources((left.id,))
    (request,) = built.endpoint.requests
    assert left.id in request.body["messages"][0]["content"]
    assert over.id not in request.body["messages"][0]["content"]


class HeldSandbox(LocalSandbox):
    """The local driver; ``before`` is done once before it is given files."""

    before: Callable[[], Awaitable[None]] | None = None

    async def open(self, spec: SessionSpec) -> SandboxSession:
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        return await super().open(spec)


async def test_file_that_is_deleted_while_its_session_is_opened_is_left_out(database: Database, tmp_path: Path) -> None:
    settings = LocalSandboxSettings(guest_python=guest_python(), work_directory=tmp_path / "sandbox", pool_size=0)
    script = [code("import os; print('gone.csv' in os.listdir(), open('left.csv').read())"), text("Well.")]
    async with (
        ScriptedModel(script) as endpoint,
        HeldSandbox(settings) as driver,
        build(database, tmp_path, endpoint, driver=driver, limits=LIMITS) as built,
    ):
        gone, left = [
            await built.files.create(PROJECT, UploadHead(f"{name}.csv"), name.encode()) for name in ("gone", "left")
        ]
        thread = await built.threads.create(
            PROJECT, {"tool_resources": ToolResources((gone.id, left.id))}, [{"text": "Look."}]
        )
        assistant = await built.assistant(CodeInterpreterTool())
        driver.before = partial(built.files.delete, PROJECT, gone.id)
        run = await built.settled(await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}))
        assert run.status is RunStatus.COMPLETED
        assert "False left" in endpoint.requests[1].tool_texts[0]


async def test_thread_whose_run_waits_for_its_client_is_deleted_with_it(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"})])
    run = await built.settled(await built.run(LOOKUP))
    reader = asyncio.create_task(built.events(run))
    await asyncio.wait_for(built.runs.delete_thread(PROJECT, run.thread_id), 10)
    try:
        seen = await asyncio.wait_for(reader, 10)
    except RunNotFound:
        pass  # it was behind the end when its rows went
    else:
        assert seen[-1].type is EventType.RUN_CANCELLED
    with pytest.raises(RunNotFound):
        await built.runs.submit_tool_outputs(PROJECT, run.id, [])
    assert set((await rows(built)).values()) == {0}


Creation = Callable[[House, str, str], Awaitable[object]]


async def _run(house: House, thread_id: str, assistant_id: str) -> object:
    return await house.runs.create(PROJECT, thread_id, {"assistant_id": assistant_id})


async def _message(house: House, thread_id: str, assistant_id: str) -> object:
    return await house.threads.create_message(PROJECT, thread_id, {"text": "One more"})


async def _session(house: House, thread_id: str, assistant_id: str) -> object:
    return await house.sessions.create(PROJECT, thread_id)


@pytest.mark.parametrize("create", [_run, _message], ids=["run", "message"])
async def test_nothing_is_added_to_a_thread_that_is_being_deleted(house: Build, create: Creation) -> None:
    """Whenever it comes: before, it goes with the thread; afterwards, there is none."""
    built = await house(lambda _: text("Hi"))
    assistant = await built.assistant()
    for turns in range(30):
        thread = await built.thread()
        if turns % 2:
            await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id})
        deleting = asyncio.create_task(built.runs.delete_thread(PROJECT, thread.id))
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(
            *(create(built, thread.id, assistant.id) for _ in range(3)), return_exceptions=True
        )
        await asyncio.wait_for(deleting, 10)
        assert all(isinstance(outcome, DomainError) or not isinstance(outcome, Exception) for outcome in outcomes)
        with pytest.raises(ThreadNotFound):
            await create(built, thread.id, assistant.id)
    await built.engine.drain(10.0)
    assert set((await rows(built)).values()) == {0}


async def test_no_session_is_opened_on_a_thread_that_is_being_deleted(house_with_sandbox: Build) -> None:
    built = await house_with_sandbox([])
    for turns in range(8):
        thread = await built.thread()
        opening = asyncio.create_task(built.sessions.create(PROJECT, thread.id))
        for _ in range(turns * 3):
            await asyncio.sleep(0)
        await asyncio.wait_for(built.runs.delete_thread(PROJECT, thread.id), 20)
        (outcome,) = await asyncio.gather(opening, return_exceptions=True)
        assert isinstance(outcome, ThreadNotFound) or not isinstance(outcome, BaseException)
    sessions = (await built.sessions.list(PROJECT, PageRequest())).items
    assert [session.status for session in sessions if session.close_time is None] == []


async def test_threads_deleted_twice_at_once_are_deleted_once(house: Build) -> None:
    built = await house([text("Hi").then(Wait(asyncio.Event()))])
    run = await built.run()
    async for item in built.runs.follow_events(PROJECT, run.id, 0, 60.0):
        if isinstance(item, RunEvent) and item.type is EventType.MESSAGE_DELTA:
            break
    outcomes = await asyncio.gather(
        *(built.runs.delete_thread(PROJECT, run.thread_id) for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType"] + ["ThreadNotFound"] * 4
    assert set((await rows(built)).values()) == {0}
