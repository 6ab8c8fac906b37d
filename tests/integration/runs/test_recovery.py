"""Runs whose server ended in the middle, taken up by the next one."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from afarensis_server.clock import now
from afarensis_server.domain.events import EventDraft, EventType, RunEvent
from afarensis_server.domain.runs import CodeInterpreterCall, RunStatus, RunStep, StepStatus, ToolCalls
from afarensis_server.domain.threads import MessageStatus, TextContent
from afarensis_server.domain.tools import CodeInterpreterTool, ToolChoice, ToolChoiceMode
from afarensis_server.runs.recovery import take_up
from afarensis_server.store import queue, runs, steps
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.pages import PageRequest
from tests.support.scripted_model import ScriptedModel, Turn, Wait, call, text

from .conftest import LOOKUP, PROJECT, House, build


async def until(house: House, run_id: str, kind: EventType) -> list[RunEvent]:
    seen: list[RunEvent] = []
    async for item in house.runs.follow_events(PROJECT, run_id, 0, 60.0):
        if isinstance(item, RunEvent):
            seen.append(item)
            if item.type is kind:
                break
    return seen


async def test_an_answer_cut_by_the_end_of_the_server_is_asked_for_again(database: Database, tmp_path: Path) -> None:
    script = [text("The first att").then(Wait(asyncio.Event())), text("The second attempt.")]
    async with ScriptedModel(script) as endpoint:
        async with build(database, tmp_path, endpoint) as house:
            run = await house.run()
            before = await until(house, run.id, EventType.MESSAGE_DELTA)
        async with build(database, tmp_path, endpoint) as house:
            after = await house.events(run, before[-1].sequence)
            done = await house.runs.get(PROJECT, run.id)
            messages = (await house.threads.list_messages(PROJECT, run.thread_id, PageRequest(descending=False))).items
    assert done.status is RunStatus.COMPLETED
    assert [event.sequence for event in before + after] == list(range(1, len(before) + len(after) + 1))
    assert [event.type for event in after[:2]] == [EventType.MESSAGE_INCOMPLETE, EventType.STEP_FAILED]
    assert [(message.status, message.content) for message in messages[1:]] == [
        (MessageStatus.INCOMPLETE, (TextContent("The first att"),)),
        (MessageStatus.COMPLETED, (TextContent("The second attempt."),)),
    ]
    # The half answer is nothing that the model said: it is not in the prompt of the second call.
    assert [message["role"] for message in endpoint.requests[1].body["messages"]] == ["user"]


async def test_a_forced_tool_is_forced_again_when_its_call_was_cut(database: Database, tmp_path: Path) -> None:
    begun = call("lookup", {"word": "x"}).steps[:1]
    script = [Turn((*begun, Wait(asyncio.Event()))), call("lookup", {"word": "x"})]
    async with ScriptedModel(script) as endpoint:
        async with build(database, tmp_path, endpoint) as house:
            run = await house.run(LOOKUP, tool_choice=ToolChoice(ToolChoiceMode.FUNCTION, "lookup"))
            await until(house, run.id, EventType.STEP_DELTA)
        async with build(database, tmp_path, endpoint) as house:
            assert (await house.settled(run)).status is RunStatus.REQUIRES_ACTION
    forced = {"type": "function", "function": {"name": "lookup"}}
    assert [request.body["tool_choice"] for request in endpoint.requests] == [forced, forced]


async def test_a_queued_run_survives_the_end_of_the_server(database: Database, tmp_path: Path) -> None:
    async with ScriptedModel([text("Hi")]) as endpoint:
        async with AsyncExitStack() as stack:
            house = await stack.enter_async_context(build(database, tmp_path, endpoint))
            await house.engine.drain(0.0)
            run = await house.run()
        assert endpoint.requests == []
        async with build(database, tmp_path, endpoint) as house:
            assert (await house.settled(run)).status is RunStatus.COMPLETED


async def test_a_cancellation_cut_short_is_finished_by_the_next_server(database: Database, tmp_path: Path) -> None:
    async with ScriptedModel([Turn((Wait(asyncio.Event()),))]) as endpoint:
        async with build(database, tmp_path, endpoint) as house:
            run = await house.run()
            await until(house, run.id, EventType.RUN_IN_PROGRESS)
            await house.engine.drain(0.0)

            def cancel(tx: Transaction) -> None:
                row = runs.get(tx.connection, PROJECT, run.id)
                assert row is not None
                assert runs.move(tx.connection, replace(row, status=RunStatus.CANCELLING), row.status)

            await database.write(cancel)
        async with build(database, tmp_path, endpoint) as house:
            assert (await house.settled(run)).status is RunStatus.CANCELLED


async def test_code_that_may_have_run_is_not_run_again(database: Database, tmp_path: Path) -> None:
    async with (
        ScriptedModel([Turn((Wait(asyncio.Event()),))]) as endpoint,
        build(database, tmp_path, endpoint) as house,
    ):
        run = await house.run(CodeInterpreterTool())
        await until(house, run.id, EventType.RUN_IN_PROGRESS)
        await house.engine.drain(0.0)
        begun = CodeInterpreterCall("call_1", "pay()", session_id="sess_1", execution_id="exec_1")
        step = RunStep(
            id="step_1",
            project=PROJECT,
            run_id=run.id,
            thread_id=run.thread_id,
            assistant_id=run.assistant_id,
            create_time=run.create_time,
            status=StepStatus.IN_PROGRESS,
            details=ToolCalls((begun,)),
        )

        def take(tx: Transaction) -> RunStatus:
            steps.insert(tx.connection, step)
            row = runs.get(tx.connection, PROJECT, run.id)
            assert row is not None
            events: list[EventDraft] = []
            taken = take_up(tx, events, row, [])
            house.log.append(tx, PROJECT, run.id, events)
            assert not queue.is_held(tx.connection, run.id, now(), "worker_1")
            return taken.status

        assert await database.write(take) is RunStatus.FAILED
        failed = await house.runs.get(PROJECT, run.id)
        assert failed.last_error is not None
        assert failed.last_error.reason == "CODE_INTERRUPTED"
        (kept,) = (await house.runs.list_steps(PROJECT, run.id, PageRequest())).items
        assert kept.status is StepStatus.FAILED
        assert kept.details == ToolCalls((begun,))
