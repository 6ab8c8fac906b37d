"""What each status of a run allows, call by call, and the words of what it does not."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from afarensis_server.clock import now
from afarensis_server.domain.events import EventType
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Thread
from afarensis_server.errors import (
    RunNotAwaitingToolOutputs,
    RunNotCancellable,
    RunNotFound,
    TenantRunLimit,
    ThreadHasActiveRun,
    ThreadLocked,
    ThreadLockedForDeletion,
)
from afarensis_server.runs.fields import RunLimits
from afarensis_server.runs.submitting import ToolOutput
from afarensis_server.store import queue, runs, tables
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.pages import PageRequest
from tests.support.scripted_model import ScriptedModel, call, text

from .conftest import LOOKUP, PROJECT, Build, House, build
from .test_transitions import in_status

ACTIVE = frozenset({RunStatus.QUEUED, RunStatus.IN_PROGRESS, RunStatus.REQUIRES_ACTION, RunStatus.CANCELLING})


@pytest.fixture
async def idle(house: Build) -> House:
    """A house in which nobody works on runs: they stay as they are put."""
    built = await house([text("Never asked.")] * 10)
    await built.engine.drain(0.0)
    return built


async def put(house: House, status: RunStatus) -> tuple[Thread, Run]:
    """A thread with a message and a run in this status."""
    thread = await house.thread()
    moment = now()
    run = in_status(status, thread.id, moment)
    if run.expire_time is not None:
        run = replace(run, expire_time=moment + timedelta(minutes=10))

    def insert(tx: Transaction) -> None:
        runs.insert(tx.connection, run)
        if status in (RunStatus.QUEUED, RunStatus.IN_PROGRESS):
            queue.enqueue(tx.connection, run)

    await house.database.write(insert)
    return thread, run


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_tool_outputs(idle: House, status: RunStatus) -> None:
    _, run = await put(idle, status)
    outputs = [ToolOutput("call_1", "y")]
    if status is RunStatus.REQUIRES_ACTION:
        assert (await idle.runs.submit_tool_outputs(PROJECT, run.id, outputs)).status is RunStatus.QUEUED
    else:
        with pytest.raises(RunNotAwaitingToolOutputs) as refused:
            await idle.runs.submit_tool_outputs(PROJECT, run.id, outputs)
        assert str(refused.value) == f'Runs in status "{status}" do not accept tool outputs.'


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_cancel(idle: House, status: RunStatus) -> None:
    _, run = await put(idle, status)
    if status in ACTIVE:
        assert (await idle.runs.cancel(PROJECT, run.id)).status is RunStatus.CANCELLED
    else:
        with pytest.raises(RunNotCancellable) as refused:
            await idle.runs.cancel(PROJECT, run.id)
        assert str(refused.value) == f"Cannot cancel run with status '{status}'."
        assert await idle.runs.get(PROJECT, run.id) == run


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_new_message(idle: House, status: RunStatus) -> None:
    thread, run = await put(idle, status)
    if status in ACTIVE:
        with pytest.raises(ThreadLocked) as refused:
            await idle.threads.create_message(PROJECT, thread.id, {"text": "And?"})
        assert str(refused.value) == f"Can't add messages to {thread.id} while a run {run.id} is active."
    else:
        await idle.threads.create_message(PROJECT, thread.id, {"text": "And?"})


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_deleted_message(idle: House, status: RunStatus) -> None:
    thread, run = await put(idle, status)
    (message,) = (await idle.threads.list_messages(PROJECT, thread.id, PageRequest())).items
    if status in ACTIVE:
        with pytest.raises(ThreadLockedForDeletion) as refused:
            await idle.threads.delete_message(PROJECT, message.id)
        assert str(refused.value) == f"Can't delete messages from {thread.id} while a run {run.id} is active."
    else:
        await idle.threads.delete_message(PROJECT, message.id)


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_second_run(idle: House, status: RunStatus) -> None:
    thread, run = await put(idle, status)
    assistant = await idle.assistant()
    if status in ACTIVE:
        with pytest.raises(ThreadHasActiveRun) as refused:
            await idle.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id})
        assert str(refused.value) == f"Thread {thread.id} already has an active run {run.id}."
    else:
        second = await idle.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id})
        assert second.status is RunStatus.QUEUED


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_metadata(idle: House, status: RunStatus) -> None:
    _, run = await put(idle, status)
    changed = await idle.runs.update(PROJECT, run.id, {"a": "b"})
    assert changed == replace(run, metadata={"a": "b"})


@pytest.mark.parametrize("status", sorted(RunStatus))
async def test_deleted_thread(idle: House, status: RunStatus) -> None:
    thread, run = await put(idle, status)
    await asyncio.wait_for(idle.runs.delete_thread(PROJECT, thread.id), 10)
    with pytest.raises(RunNotFound):
        await idle.runs.get(PROJECT, run.id)


# --- outputs that come late, or again ---------------------------------------------------------------------------------


async def test_outputs_beyond_the_time_of_a_run_expire_it(idle: House) -> None:
    """Though nobody has come by to do so."""
    _, run = await put(idle, RunStatus.REQUIRES_ACTION)
    over = tables.runs.update().values(expire_time=now() - timedelta(milliseconds=1))
    await idle.database.write(lambda tx: tx.connection.execute(over).rowcount)
    with pytest.raises(RunNotAwaitingToolOutputs) as refused:
        await idle.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput("call_1", "y")])
    assert str(refused.value) == 'Runs in status "expired" do not accept tool outputs.'
    expired = await idle.runs.get(PROJECT, run.id)
    assert (expired.status, expired.required_action) == (RunStatus.EXPIRED, None)
    assert [event.type for event in await idle.events(run)] == [EventType.RUN_EXPIRED]


async def test_outputs_that_were_taken_may_be_given_again(house: Build) -> None:
    """Whoever lost the answer asks again; nothing happens twice."""
    built = await house([call("lookup", {"word": "x"}), call("lookup", {"word": "y"}), text("Done.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.required_action is not None
    outputs = [ToolOutput(run.required_action.calls[0].id, "first")]
    await built.runs.submit_tool_outputs(PROJECT, run.id, outputs)
    again = await built.settled(await built.runs.submit_tool_outputs(PROJECT, run.id, outputs))
    assert again.required_action is not None
    # Also while the next calls wait, which these are not the outputs of.
    assert await built.runs.submit_tool_outputs(PROJECT, run.id, outputs) == again
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(again.required_action.calls[0].id, "second")])
    done = await built.settled(run)
    assert await built.runs.submit_tool_outputs(PROJECT, run.id, outputs) == done
    with pytest.raises(RunNotAwaitingToolOutputs, match="completed"):
        await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(outputs[0].call_id, "other")])
    with pytest.raises(RunNotAwaitingToolOutputs, match="completed"):
        await built.runs.submit_tool_outputs(PROJECT, run.id, [])
    assert len(built.endpoint.requests) == 3
    told = [event.type for event in await built.events(run)]
    assert told.count(EventType.RUN_QUEUED) == 3


# --- runs of a project ------------------------------------------------------------------------------------------------


async def test_project_has_no_more_runs_than_it_may(database: Database, tmp_path: Path) -> None:
    async with (
        ScriptedModel([text("Hi")] * 10) as endpoint,
        build(database, tmp_path, endpoint, run_limits=RunLimits(per_project=2)) as built,
    ):
        await built.engine.drain(0.0)
        first, _ = [await built.run() for _ in range(2)]
        with pytest.raises(TenantRunLimit) as refused:
            await built.run()
        assert str(refused.value).startswith("The project has 2 runs that are not over, as many as it may.")
        assert refused.value.retry_seconds is not None
        # Another project's are its own.
        thread = await built.threads.create("other", {}, [{"text": "Hello"}])
        assistant = await built.assistants.create("other", {"model": "scripted"})
        await built.runs.create("other", thread.id, {"assistant_id": assistant.id})
        await built.runs.cancel(PROJECT, first.id)
        await built.run()
