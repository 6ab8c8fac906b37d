"""What clients see of runs, on a model endpoint that answers by script."""

import asyncio
from pathlib import Path

import pytest

from afarensis_server.domain.events import EventType, MessageDelta, RunEvent
from afarensis_server.domain.runs import (
    FunctionCall,
    MessageCreation,
    RunErrorCode,
    RunIncompleteReason,
    RunStatus,
    StepStatus,
    ToolCalls,
    TruncationStrategy,
    TruncationType,
    Usage,
)
from afarensis_server.domain.sessions import SessionStatus
from afarensis_server.domain.threads import MessageIncompleteReason, MessageStatus, TextContent
from afarensis_server.domain.tools import CodeInterpreterTool, ToolChoice, ToolChoiceMode
from afarensis_server.errors import (
    CursorPastEnd,
    InvalidFields,
    RunNotAwaitingToolOutputs,
    RunNotCancellable,
    RunNotFound,
    ThreadHasActiveRun,
    ThreadLocked,
    ThreadNotFound,
    ToolOutputsMismatch,
)
from afarensis_server.runs.fields import RunFields
from afarensis_server.runs.submitting import ToolOutput
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from tests.support.sandbox import guest_python
from tests.support.scripted_model import Cut, Delta, ScriptedModel, Turn, Wait, call, calls, error, text

from .conftest import LOOKUP, PROJECT, Build, House, build


async def message_texts(house: House, thread_id: str) -> list[str]:
    page = await house.threads.list_messages(PROJECT, thread_id, PageRequest(descending=False))
    return ["".join(part.value for part in item.content if isinstance(part, TextContent)) for item in page.items]


async def test_a_plain_run_tells_its_story_in_the_documented_order(house: Build) -> None:
    built = await house([text("Hel", "lo!")])
    run = await built.run()
    events = await built.events(run)
    kinds = [event.type.value.removeprefix("thread.") for event in events if event.type is not EventType.MESSAGE_DELTA]
    assert kinds == [
        "run.created",
        "run.queued",
        "run.in_progress",
        "run.step.created",
        "run.step.in_progress",
        "message.created",
        "message.in_progress",
        "message.completed",
        "run.step.completed",
        "run.completed",
    ]
    deltas = [event.payload for event in events if isinstance(event.payload, MessageDelta)]
    assert "".join(delta.content[0].content.value for delta in deltas) == "Hello!"  # type: ignore[union-attr]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert await message_texts(built, run.thread_id) == ["Hello", "Hello!"]


async def test_a_completed_run_has_its_usage_and_no_expiry(house: Build) -> None:
    built = await house([text("Hi")])
    run = await built.settled(await built.run())
    assert run.status is RunStatus.COMPLETED
    assert run.usage == Usage(100, 20)
    assert run.expire_time is None
    assert run.start_time is not None
    assert run.complete_time is not None


async def test_a_reader_that_comes_back_sees_the_rest_once(house: Build) -> None:
    built = await house([text("a", "b", "c")])
    run = await built.run()
    everything = await built.events(run)
    for after in range(len(everything) + 1):
        assert await built.events(run, after) == everything[after:]
    with pytest.raises(CursorPastEnd):
        await built.events(run, len(everything) + 1)


async def test_a_function_call_waits_for_its_output_and_goes_on(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"}), text("It means y.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.status is RunStatus.REQUIRES_ACTION
    assert run.required_action is not None
    (asked,) = run.required_action.calls
    assert (asked.name, asked.arguments_json, asked.output) == ("lookup", '{"word": "x"}', None)
    assert run.usage is None

    queued = await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(asked.id, "y")])
    assert queued.status is RunStatus.QUEUED
    assert queued.required_action is None
    done = await built.settled(run)
    assert done.status is RunStatus.COMPLETED
    assert done.usage == Usage(200, 40)
    assert built.endpoint.requests[1].tool_texts == ["y"]
    kinds = [event.type for event in await built.events(run)]
    waiting = kinds.index(EventType.RUN_REQUIRES_ACTION)
    assert kinds[waiting + 1 : waiting + 4] == [
        EventType.STEP_COMPLETED,
        EventType.RUN_QUEUED,
        EventType.RUN_IN_PROGRESS,
    ]
    steps = (await built.runs.list_steps(PROJECT, run.id, PageRequest(descending=False))).items
    assert steps[0].details == ToolCalls((FunctionCall(asked.id, "lookup", '{"word": "x"}', "y"),))
    assert isinstance(steps[1].details, MessageCreation)


async def test_parallel_calls_want_all_their_outputs_at_once(house: Build) -> None:
    built = await house([calls(("a", "lookup", {}), ("b", "lookup", {})), text("Done.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.required_action is not None
    first, second = (asked.id for asked in run.required_action.calls)
    with pytest.raises(ToolOutputsMismatch) as refused:
        await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(first, "1")])
    assert str(refused.value) == f"Expected tool outputs for call_ids ['{first}', '{second}'], got ['{first}']"
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(second, "2"), ToolOutput(first, "1")])
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    assert built.endpoint.requests[1].tool_texts == ["1", "2"]


async def test_outputs_for_a_run_that_wants_none_are_refused(house: Build) -> None:
    built = await house([text("Hi")])
    run = await built.settled(await built.run())
    with pytest.raises(RunNotAwaitingToolOutputs, match=r'Runs in status "completed" do not accept tool outputs\.'):
        await built.runs.submit_tool_outputs(PROJECT, run.id, [])


async def test_a_call_of_a_tool_that_is_not_there_is_answered_and_the_model_goes_on(house: Build) -> None:
    built = await house([call("nothing", {}), text("Sorry.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.status is RunStatus.COMPLETED
    assert built.endpoint.requests[1].tool_texts == ["There is no tool named 'nothing' in this run."]


async def test_code_without_a_sandbox_fails_the_run_with_the_reason(house: Build) -> None:
    built = await house([call("code_interpreter", {"code": "1"})])
    run = await built.settled(await built.run(CodeInterpreterTool()))
    assert run.status is RunStatus.FAILED
    assert run.last_error is not None
    assert run.last_error.reason == "SANDBOX_UNAVAILABLE"
    (step,) = (await built.runs.list_steps(PROJECT, run.id, PageRequest())).items
    assert step.status is StepStatus.FAILED


async def test_broken_arguments_go_back_to_the_model(house: Build) -> None:
    built = await house([call("code_interpreter", '{"code": '), text("I give up.")])
    run = await built.settled(await built.run(CodeInterpreterTool()))
    assert run.status is RunStatus.COMPLETED
    assert "not valid JSON" in built.endpoint.requests[1].tool_texts[0]


async def test_a_locked_thread_takes_no_message_and_no_second_run(house: Build) -> None:
    held = asyncio.Event()
    built = await house([text("Hi").first(Wait(held))])
    run = await built.run()
    with pytest.raises(ThreadLocked) as locked:
        await built.threads.create_message(PROJECT, run.thread_id, {"text": "x"})
    assert str(locked.value) == f"Can't add messages to {run.thread_id} while a run {run.id} is active."
    with pytest.raises(ThreadHasActiveRun) as active:
        await built.runs.create(PROJECT, run.thread_id, {"assistant_id": run.assistant_id})
    assert str(active.value) == f"Thread {run.thread_id} already has an active run {run.id}."
    held.set()
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    await built.threads.create_message(PROJECT, run.thread_id, {"text": "x"})


async def test_a_cancelled_run_keeps_what_was_said_and_hangs_up_on_the_model(house: Build) -> None:
    held = asyncio.Event()
    built = await house([text("Once upon a time").then(Wait(held))])
    run = await built.run()
    async for item in built.runs.follow_events(PROJECT, run.id, 0, 60.0):
        if getattr(item, "type", None) is EventType.MESSAGE_DELTA:
            break
    cancelling = await built.runs.cancel(PROJECT, run.id)
    assert cancelling.status is RunStatus.CANCELLING
    events = await built.events(run)
    assert [event.type for event in events[-4:]] == [
        EventType.RUN_CANCELLING,
        EventType.MESSAGE_INCOMPLETE,
        EventType.STEP_CANCELLED,
        EventType.RUN_CANCELLED,
    ]
    (message, _) = (await built.threads.list_messages(PROJECT, run.thread_id, PageRequest())).items
    assert message.status is MessageStatus.INCOMPLETE
    assert message.incomplete_reason is MessageIncompleteReason.RUN_CANCELLED
    assert message.content == (TextContent("Once upon a time"),)
    await asyncio.wait_for(built.endpoint.requests[0].abandoned.wait(), 10)
    with pytest.raises(RunNotCancellable, match=r"Cannot cancel run with status 'cancelled'\."):
        await built.runs.cancel(PROJECT, run.id)


async def test_a_run_that_waits_for_its_client_is_cancelled_at_once(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"})])
    run = await built.settled(await built.run(LOOKUP))
    cancelled = await built.runs.cancel(PROJECT, run.id)
    assert cancelled.status is RunStatus.CANCELLED
    (step,) = (await built.runs.list_steps(PROJECT, run.id, PageRequest())).items
    assert step.status is StepStatus.CANCELLED


async def test_a_cancellation_holds_though_its_caller_is_gone(house: Build) -> None:
    built = await house([Turn((Wait(asyncio.Event()),)), call("lookup", {"word": "x"})])
    at_work = await built.run()
    while not built.endpoint.requests:
        await built.runs.wait(PROJECT, at_work.id, 0.05)
    waiting = await built.settled(await built.run(LOOKUP))
    for run in (at_work, waiting):
        asked = asyncio.ensure_future(built.runs.cancel(PROJECT, run.id))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        assert (await asyncio.wait_for(built.events(run), 10))[-1].type is EventType.RUN_CANCELLED


async def test_a_run_expires_while_its_model_is_silent(house: Build) -> None:
    built = await house([Turn((Wait(asyncio.Event()),))])
    run = await built.settled(await built.run(ttl_seconds=1.0))
    assert run.status is RunStatus.EXPIRED
    assert run.expired_time is not None


async def test_a_run_expires_while_it_waits_for_its_client(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"})])
    run = await built.settled(await built.run(LOOKUP, ttl_seconds=2.0))
    assert run.status is RunStatus.REQUIRES_ACTION
    events = await built.events(run)
    assert [event.type for event in events[-2:]] == [EventType.STEP_EXPIRED, EventType.RUN_EXPIRED]
    with pytest.raises(RunNotAwaitingToolOutputs):
        await built.runs.submit_tool_outputs(PROJECT, run.id, [])


@pytest.mark.parametrize(
    ("turn", "code", "reason"),
    [
        (error(401, "bad key"), RunErrorCode.SERVER_ERROR, "MODEL_CREDENTIALS_REFUSED"),
        (error(429, "slow down"), RunErrorCode.RATE_LIMIT_EXCEEDED, "MODEL_RATE_LIMITED"),
        (error(500, "oops"), RunErrorCode.SERVER_ERROR, "MODEL_FAILED"),
        (text("cut o").then(Cut()), RunErrorCode.SERVER_ERROR, "MODEL_ANSWER_BROKEN"),
    ],
)
async def test_a_model_that_fails_fails_the_run_and_says_why(
    house: Build, turn: Turn, code: RunErrorCode, reason: str
) -> None:
    built = await house([turn])
    run = await built.settled(await built.run())
    assert run.status is RunStatus.FAILED
    assert run.last_error is not None
    assert (run.last_error.code, run.last_error.reason) == (code, reason)
    assert (await built.events(run))[-1].type is EventType.RUN_FAILED


async def test_an_answer_cut_by_its_token_limit_leaves_the_run_incomplete(house: Build) -> None:
    built = await house([text("The beginning", finish="length")])
    run = await built.settled(await built.run(max_completion_tokens=256))
    assert run.status is RunStatus.INCOMPLETE
    assert run.incomplete_reason is RunIncompleteReason.MAX_COMPLETION_TOKENS
    assert run.usage == Usage(100, 20)
    (message, _) = (await built.threads.list_messages(PROJECT, run.thread_id, PageRequest())).items
    assert message.incomplete_reason is MessageIncompleteReason.MAX_TOKENS
    assert message.content == (TextContent("The beginning"),)


async def test_token_budgets_count_over_all_model_calls(house: Build) -> None:
    turns = [call("nothing", {}), call("nothing", {}), call("nothing", {}), text("never reached")]
    built = await house(turns)
    run = await built.settled(await built.run(LOOKUP, max_prompt_tokens=256))
    assert run.status is RunStatus.INCOMPLETE
    assert run.incomplete_reason is RunIncompleteReason.MAX_PROMPT_TOKENS
    # A third prompt would take more than is left.
    assert run.usage == Usage(200, 40)


async def test_a_forced_tool_is_forced_only_once(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"}), text("Done.")])
    choice = ToolChoice(ToolChoiceMode.FUNCTION, "lookup")
    run = await built.settled(await built.run(LOOKUP, tool_choice=choice))
    assert run.required_action is not None
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(run.required_action.calls[0].id, "y")])
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    assert built.endpoint.requests[0].body["tool_choice"] == {"type": "function", "function": {"name": "lookup"}}
    assert built.endpoint.requests[1].body.get("tool_choice", "auto") == "auto"


async def test_a_forced_tool_that_is_not_there_is_refused(house: Build) -> None:
    built = await house([])
    with pytest.raises(InvalidFields, match="there is no function 'other'"):
        await built.run(LOOKUP, tool_choice=ToolChoice(ToolChoiceMode.FUNCTION, "other"))


async def test_instructions_are_overridden_then_appended_to(house: Build) -> None:
    built = await house([text("Hi")])
    run = await built.run(instructions="Be brief.", additional_instructions="Be kind.")
    await built.settled(run)
    assert built.endpoint.requests[0].body["messages"][0] == {"role": "system", "content": "Be brief.\n\nBe kind."}


@pytest.mark.parametrize(("given", "asked"), [(None, "high"), ("low", "low"), ("", None)])
async def test_an_empty_reasoning_effort_is_the_providers_own(
    house: Build, given: str | None, asked: str | None
) -> None:
    built = await house([text("Hi")])
    thread = await built.thread()
    assistant = await built.assistants.create(PROJECT, {"model": "scripted", "reasoning_effort": "high"})
    fields: RunFields = {"assistant_id": assistant.id, "reasoning_effort": given}
    await built.settled(await built.runs.create(PROJECT, thread.id, fields))
    assert built.endpoint.requests[0].body.get("reasoning_effort") == asked


async def test_the_last_messages_are_those_before_the_run(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"}).first(Delta({"content": "Let me look."})), text("y")])
    newest = TruncationStrategy(TruncationType.LAST_MESSAGES, 1)
    run = await built.settled(await built.run(LOOKUP, truncation_strategy=newest))
    assert run.required_action is not None
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(run.required_action.calls[0].id, "y")])
    await built.settled(run)
    assert [message["role"] for message in built.endpoint.requests[1].body["messages"]] == ["user", "assistant", "tool"]


async def test_metadata_given_to_a_message_that_is_being_written_stays(house: Build) -> None:
    written = asyncio.Event()
    built = await house([text("Hi").then(Wait(written))])
    run = await built.run()
    async for item in built.runs.follow_events(PROJECT, run.id, 0, 60.0):
        if isinstance(item, RunEvent) and isinstance(item.payload, MessageDelta):
            await built.threads.update_message(PROJECT, item.payload.message_id, {"seen": "yes"})
            break
    written.set()
    await built.settled(run)
    (message, _) = (await built.threads.list_messages(PROJECT, run.thread_id, PageRequest())).items
    assert message.metadata == {"seen": "yes"}
    assert message.content == (TextContent("Hi"),)


async def test_the_same_request_id_creates_one_run(house: Build) -> None:
    built = await house([text("Hi")])
    thread, assistant = await built.thread(), await built.assistant()
    first = await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}, request_id="r-1")
    again = await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}, request_id="r-1")
    assert again.id == first.id
    await built.settled(first)


async def test_a_thread_and_its_run_are_created_together_or_not_at_all(house: Build) -> None:
    built = await house([text("Hi")])
    assistant = await built.assistant()
    _thread, run = await built.runs.create_with_thread(PROJECT, {}, [{"text": "Hello"}], {"assistant_id": assistant.id})
    events = await built.events(run)
    assert [event.type for event in events[:3]] == [
        EventType.THREAD_CREATED,
        EventType.RUN_CREATED,
        EventType.RUN_QUEUED,
    ]
    before = len((await built.threads.list(PROJECT, PageRequest())).items)
    with pytest.raises(Exception, match=r"No assistant found with id 'asst_none'\."):
        await built.runs.create_with_thread(PROJECT, {}, [{"text": "Hello"}], {"assistant_id": "asst_none"})
    assert len((await built.threads.list(PROJECT, PageRequest())).items) == before


async def test_waiting_gives_up_after_its_time(house: Build) -> None:
    built = await house([Turn((Wait(asyncio.Event()),))])
    run = await built.run()
    waited = await built.runs.wait(PROJECT, run.id, 0.05)
    assert waited.status in (RunStatus.QUEUED, RunStatus.IN_PROGRESS)


async def test_many_runs_go_on_at_the_same_time(house: Build) -> None:
    everyone = asyncio.Event()
    built = await house(lambda request: text("Hi").first(Wait(everyone)))
    runs = [await built.run() for _ in range(50)]
    while len(built.endpoint.requests) < len(runs):
        await built.runs.wait(PROJECT, runs[0].id, 0.05)
    everyone.set()
    assert {(await built.settled(run)).status for run in runs} == {RunStatus.COMPLETED}


async def test_deleting_a_thread_cancels_its_run_first(house: Build) -> None:
    built = await house([Turn((Wait(asyncio.Event()),))])
    run = await built.run()
    while not built.endpoint.requests:
        await built.runs.wait(PROJECT, run.id, 0.05)
    await built.runs.delete_thread(PROJECT, run.thread_id)
    await asyncio.wait_for(built.endpoint.requests[0].abandoned.wait(), 10)
    with pytest.raises(RunNotFound):
        await built.runs.get(PROJECT, run.id)


async def test_deleting_a_thread_of_another_project_ends_nothing(database: Database, tmp_path: Path) -> None:
    settings = LocalSandboxSettings(guest_python=guest_python(), work_directory=tmp_path / "sandbox", pool_size=1)
    async with (
        ScriptedModel([]) as endpoint,
        LocalSandbox(settings) as driver,
        build(database, tmp_path, endpoint, driver=driver) as built,
    ):
        session = await built.sessions.create(PROJECT, (await built.thread()).id)
        assert session.thread_id is not None
        with pytest.raises(ThreadNotFound):
            await built.runs.delete_thread("another", session.thread_id)
        assert (await built.sessions.get(PROJECT, session.id)).status is SessionStatus.ACTIVE


async def test_a_reader_of_a_deleted_run_is_told(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"})])
    run = await built.settled(await built.run(LOOKUP))
    last = await built.log.last_sequence(PROJECT, run.id)
    reader = built.log.follow(PROJECT, run.id, last, 60.0)
    await anext(reader)
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    await built.threads.delete(PROJECT, run.thread_id)
    built.log.deleted(PROJECT, run.id)
    with pytest.raises(RunNotFound):
        await waiting
