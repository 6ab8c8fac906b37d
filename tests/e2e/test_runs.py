"""What RunService does when all is well: each call at least once."""

import asyncio
import json
from collections.abc import Callable

import grpc
import pytest

from afarensis import v1
from tests.support.api import CODE_INTERPRETER, LOOKUP, Api, event_name, is_event, seconds, text_of
from tests.support.scripted_model import Wait, call, calls, code, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Add = Callable[..., Script]


async def test_new_run_holds_what_it_was_created_with(api: Api, script: Add) -> None:
    file = await api.upload(b"x", "x.txt")
    model = script(text("Hi")).model
    assistant = await api.assistant(
        model, CODE_INTERPRETER, LOOKUP, file_ids=[file.id], instructions="Be brief.", temperature=0.5
    )
    thread = await api.thread()
    response = await api.runs.CreateRun(
        v1.CreateRunRequest(
            thread_id=thread.id,
            assistant_id=assistant.id,
            additional_instructions="In French.",
            metadata={"case": "7"},
            top_p=0.25,
            max_completion_tokens=1000,
            ttl=seconds(90),
        )
    )
    run = response.run
    assert run.status == v1.RUN_STATUS_QUEUED
    assert (run.thread_id, run.assistant_id, run.model) == (thread.id, assistant.id, model)
    assert run.instructions == "Be brief.\n\nIn French."
    assert list(run.tools) == [CODE_INTERPRETER, LOOKUP]
    assert list(run.tool_resources.code_interpreter.file_ids) == [file.id]
    assert (run.temperature, run.top_p, run.max_completion_tokens) == (0.5, 0.25, 1000)
    assert run.metadata == {"case": "7"}
    assert run.tool_choice.mode == v1.TOOL_CHOICE_MODE_AUTO
    assert run.truncation_strategy.type == v1.TRUNCATION_TYPE_AUTO
    assert run.parallel_tool_calls
    assert run.expire_time.ToNanoseconds() - run.create_time.ToNanoseconds() == 90_000_000_000
    assert not run.HasField("max_prompt_tokens")
    assert not run.HasField("usage")
    assert (await api.settled(run)).status == v1.RUN_STATUS_COMPLETED


async def test_run_overrides_its_assistant(api: Api, script: Add) -> None:
    overriding = script(text("Hi"))
    assistant = await api.assistant("direct", CODE_INTERPRETER, instructions="Be brief.")
    request = v1.CreateRunRequest(
        thread_id=(await api.thread("Hello")).id,
        assistant_id=assistant.id,
        model=overriding.model,
        instructions="",
        tools=[LOOKUP],
        tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE),
        additional_messages=[v1.MessageInput(text="One more thing.")],
    )
    await api.settled((await api.runs.CreateRun(request)).run)
    (asked,) = overriding.requests
    # No instructions, and two messages of one author as one: some endpoints refuse them otherwise.
    (message,) = asked.body["messages"]
    assert (message["role"], message["content"]) == ("user", "Hello\n\nOne more thing.")
    assert [tool["function"]["name"] for tool in asked.body["tools"]] == ["lookup"]
    assert asked.body["tool_choice"] == "none"


async def test_thread_and_run_are_created_together(api: Api, script: Add) -> None:
    assistant = await api.assistant(script(text("Hi")).model)
    thread = v1.CreateThreadRequest(messages=[v1.MessageInput(text="Hello")], metadata={"of": "thread"})
    response = await api.runs.CreateThreadAndRun(
        v1.CreateThreadAndRunRequest(thread=thread, run=v1.CreateRunRequest(assistant_id=assistant.id))
    )
    assert response.thread.metadata == {"of": "thread"}
    assert response.run.thread_id == response.thread.id
    events = await api.events(response.run.id)
    assert [event_name(event) for event in events[:3]] == ["thread.created", "run.created", "run.queued"]
    assert events[0].thread == response.thread
    assert [text_of(message) for message in await api.messages(response.thread.id)] == ["Hello", "Hi"]


async def test_thread_and_run_are_created_and_streamed_in_one_call(api: Api, script: Add) -> None:
    assistant = await api.assistant(script(text("Hi")).model)
    create = v1.CreateThreadAndRunRequest(run=v1.CreateRunRequest(assistant_id=assistant.id))
    items = [item async for item in api.runs.CreateRunStream(v1.CreateRunStreamRequest(thread_and_run=create))]
    assert items[0].HasField("heartbeat")
    names = [event_name(item.event) for item in items if item.HasField("event")]
    assert names[:2] == ["thread.created", "run.created"]
    assert names[-1] == "run.completed"


async def test_run_is_created_once_however_often_the_call_is_repeated(api: Api, script: Add) -> None:
    assistant = await api.assistant(script(text("Hi")).model)
    request = v1.CreateRunRequest(
        request_id=f"once-{assistant.id}", thread_id=(await api.thread()).id, assistant_id=assistant.id
    )
    run = (await api.runs.CreateRun(request)).run
    assert (await api.runs.CreateRun(request)).run.id == run.id
    await api.settled(run)
    again = (await api.runs.CreateRun(request)).run
    assert (again.id, again.status) == (run.id, v1.RUN_STATUS_COMPLETED)
    streamed = [
        item.event async for item in api.runs.CreateRunStream(v1.CreateRunStreamRequest(run=request)) if item.event.type
    ]
    assert streamed == await api.stored_events(run.id)


async def test_completed_run_tells_its_times_and_tokens(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model))
    assert (await api.runs.GetRun(v1.GetRunRequest(run_id=run.id))).run == run
    times = [run.create_time, run.start_time, run.complete_time]
    assert [time.ToNanoseconds() for time in times] == sorted(time.ToNanoseconds() for time in times)
    for absent in ("expire_time", "cancel_time", "fail_time", "expired_time", "incomplete_time", "last_error"):
        assert not run.HasField(absent)
    assert run.usage == v1.TokenUsage(prompt_tokens=100, completion_tokens=20, total_tokens=120)


async def test_runs_are_listed_newest_first_by_thread_assistant_and_status(api: Api, script: Add) -> None:
    assistant = await api.assistant(script(text("1"), text("2"), text("3")).model)
    thread = await api.thread()
    create = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    made = [await api.settled((await api.runs.CreateRun(create)).run) for _ in range(3)]
    newest_first = [run.id for run in reversed(made)]

    async def listed(**fields: object) -> list[str]:
        response = await api.runs.ListRuns(v1.ListRunsRequest(**fields))  # type: ignore[arg-type]  # named below
        return [run.id for run in response.runs]

    assert await listed(thread_id=thread.id) == newest_first
    assert await listed(assistant_id=assistant.id, order=v1.SORT_ORDER_ASCENDING) == newest_first[::-1]
    assert await listed(thread_id=thread.id, statuses=[v1.RUN_STATUS_FAILED]) == []
    assert await listed(thread_id=thread.id, statuses=[v1.RUN_STATUS_FAILED, v1.RUN_STATUS_COMPLETED]) == newest_first
    assert (await listed(page_size=3)) == newest_first
    first = await api.runs.ListRuns(v1.ListRunsRequest(thread_id=thread.id, page_size=2))
    second = await api.runs.ListRuns(
        v1.ListRunsRequest(thread_id=thread.id, page_size=2, page_token=first.next_page_token)
    )
    assert [run.id for page in (first, second) for run in page.runs] == newest_first
    assert not second.next_page_token


async def test_metadata_is_replaced_and_cleared_whatever_the_status(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model, metadata={"a": "1", "b": "2"}))
    update = v1.UpdateRunRequest(run_id=run.id, metadata={"c": "3"})
    assert (await api.runs.UpdateRun(update)).run.metadata == {"c": "3"}
    nothing = v1.UpdateRunRequest(run_id=run.id)
    assert (await api.runs.UpdateRun(nothing)).run.metadata == {"c": "3"}
    clear = v1.UpdateRunRequest(run_id=run.id)
    clear.update_mask.paths.append("metadata")
    assert (await api.runs.UpdateRun(clear)).run.metadata == {}
    assert (await api.runs.GetRun(v1.GetRunRequest(run_id=run.id))).run.metadata == {}


async def test_functions_are_answered_by_the_client_and_the_run_goes_on(api: Api, script: Add) -> None:
    words = script(
        calls(("a", "lookup", {"word": "x"}), ("b", "lookup", {"word": "ü"})), text("x is 1, ", "ü is nothing.")
    )
    run = await api.settled(await api.run(words.model, LOOKUP))
    assert run.status == v1.RUN_STATUS_REQUIRES_ACTION
    first, second = run.required_action.submit_tool_outputs.tool_calls
    assert [first.function.name, second.function.name] == ["lookup", "lookup"]
    assert [json.loads(asked.function.arguments_json) for asked in (first, second)] == [{"word": "x"}, {"word": "ü"}]
    before = await api.until(run.id, is_event("run.requires_action"))

    # In any order; an empty output is an output.
    outputs = [v1.ToolOutput(tool_call_id=second.id, output=""), v1.ToolOutput(tool_call_id=first.id, output="1")]
    submit = v1.SubmitToolOutputsRequest(run_id=run.id, tool_outputs=outputs)
    queued = (await api.runs.SubmitToolOutputs(submit)).run
    assert queued.status == v1.RUN_STATUS_QUEUED
    assert not queued.HasField("required_action")

    after = await api.events(run.id, before[-1].sequence)
    assert [event_name(event) for event in after[:3]] == ["run.step.completed", "run.queued", "run.in_progress"]
    answered = [asked.function.output for asked in after[0].run_step.tool_calls.tool_calls]
    assert answered == ["1", ""]
    assert after[-1].run.status == v1.RUN_STATUS_COMPLETED
    assert words.requests[1].tool_texts == ["1", ""]


async def test_function_call_is_streamed_name_first_then_its_arguments(api: Api, script: Add) -> None:
    run = await api.run(script(call("lookup", {"word": "something long"})).model, LOOKUP)
    events = await api.until(run.id, is_event("run.requires_action"))
    deltas = [event.run_step_delta.tool_calls[0] for event in events if event_name(event) == "run.step.delta"]
    assert (deltas[0].function.name, deltas[0].function.arguments_json) == ("lookup", "")
    assert "".join(delta.function.arguments_json for delta in deltas) == '{"word": "something long"}'
    assert {delta.id for delta in deltas} == {
        events[-1].run.required_action.submit_tool_outputs.tool_calls[0].id,
    }


async def test_cancelled_run_of_a_waiting_client_is_cancelled(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(call("lookup", {})).model, LOOKUP))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    events = await api.events(run.id)
    assert [event_name(event) for event in events[-3:]] == ["run.cancelling", "run.step.cancelled", "run.cancelled"]
    assert events[-1].run.HasField("cancel_time")


async def test_cancelled_answer_keeps_the_words_that_came(api: Api, script: Add) -> None:
    run = await api.run(script(text("Once upon ").then(Wait(asyncio.Event()))).model)
    await api.until(run.id, is_event("message.delta"))
    cancelling = (await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))).run
    assert cancelling.status in (v1.RUN_STATUS_CANCELLING, v1.RUN_STATUS_CANCELLED)
    assert (await api.settled(run)).status == v1.RUN_STATUS_CANCELLED
    message = await api.answer(run)
    assert text_of(message) == "Once upon "
    assert message.status == v1.MESSAGE_STATUS_INCOMPLETE
    assert message.incomplete_details.reason == v1.MESSAGE_INCOMPLETE_REASON_RUN_CANCELLED


async def test_wait_returns_a_run_as_it_is_when_the_time_is_over(api: Api, script: Add) -> None:
    release = asyncio.Event()
    run = await api.run(script(text("Done.").first(Wait(release))).model)
    now = v1.WaitRunRequest(run_id=run.id, timeout=seconds(0))
    assert (await api.runs.WaitRun(now)).run.status in (v1.RUN_STATUS_QUEUED, v1.RUN_STATUS_IN_PROGRESS)
    waiting = asyncio.ensure_future(api.runs.WaitRun(v1.WaitRunRequest(run_id=run.id)))
    release.set()
    assert (await waiting).run.status == v1.RUN_STATUS_COMPLETED


async def test_run_expires_wherever_it_is(api: Api, script: Add) -> None:
    model = script(text("Too ").then(Wait(asyncio.Event()))).model
    answering = await api.run(model, ttl=seconds(1))
    waiting = await api.run(script(call("lookup", {})).model, LOOKUP, ttl=seconds(1))
    for run in (answering, waiting):
        end = (await api.events(run.id))[-1].run
        assert end.status == v1.RUN_STATUS_EXPIRED
        assert end.HasField("expired_time")
    message = await api.answer(answering)
    assert message.incomplete_details.reason == v1.MESSAGE_INCOMPLETE_REASON_RUN_EXPIRED


async def test_run_whose_tokens_are_used_up_is_incomplete(api: Api, script: Add) -> None:
    # Each call of the model takes 100 prompt tokens.
    model = script(*(code("1") for _ in range(5))).model
    run = await api.settled(await api.run(model, max_prompt_tokens=800))
    assert run.status == v1.RUN_STATUS_INCOMPLETE
    assert run.incomplete_details.reason == v1.RUN_INCOMPLETE_REASON_MAX_PROMPT_TOKENS
    # The next prompt would take more than is left.
    assert 0 < run.usage.prompt_tokens < 800


async def test_answer_cut_by_the_models_limit_is_incomplete(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("And so on and", finish="length")).model))
    assert run.status == v1.RUN_STATUS_INCOMPLETE
    assert run.incomplete_details.reason == v1.RUN_INCOMPLETE_REASON_MAX_COMPLETION_TOKENS
    message = await api.answer(run)
    assert text_of(message) == "And so on and"
    assert message.incomplete_details.reason == v1.MESSAGE_INCOMPLETE_REASON_MAX_TOKENS


async def test_steps_are_listed_page_by_page_and_found_by_their_id(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(code("1"), code("2"), text("Three.")).model))
    steps = await api.steps(run)
    newest = await api.runs.ListRunSteps(v1.ListRunStepsRequest(run_id=run.id, page_size=2))
    rest = await api.runs.ListRunSteps(
        v1.ListRunStepsRequest(run_id=run.id, page_size=2, page_token=newest.next_page_token)
    )
    assert [*newest.run_steps, *rest.run_steps] == list(reversed(steps))
    assert not rest.next_page_token
    for step in steps:
        assert (await api.runs.GetRunStep(v1.GetRunStepRequest(run_step_id=step.id))).run_step == step
        assert (step.run_id, step.thread_id, step.assistant_id) == (run.id, run.thread_id, run.assistant_id)


async def test_events_are_listed_behind_a_cursor_page_by_page(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model))
    everything = await api.events(run.id)
    request = v1.ListRunEventsRequest(run_id=run.id, page_size=3)
    first = await api.runs.ListRunEvents(request)
    assert list(first.events) == everything[:3]
    assert first.last_sequence == everything[-1].sequence
    assert first.ended
    request.after_sequence = 3
    assert list((await api.runs.ListRunEvents(request)).events) == everything[3:6]
    request.after_sequence = everything[-1].sequence
    at_end = await api.runs.ListRunEvents(request)
    assert (list(at_end.events), at_end.ended) == ([], True)


async def test_events_of_a_run_at_work_are_listed_at_once(api: Api, script: Add) -> None:
    run = await api.run(script(text("Well").then(Wait(asyncio.Event()))).model)
    seen = await api.until(run.id, is_event("message.delta"))
    listed = await api.runs.ListRunEvents(v1.ListRunEventsRequest(run_id=run.id))
    assert list(listed.events)[: len(seen)] == seen
    assert not listed.ended
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))


async def test_thread_that_is_deleted_ends_its_run_and_its_streams(api: Api, script: Add) -> None:
    run = await api.run(script(text("Well").then(Wait(asyncio.Event()))).model)
    reading = asyncio.create_task(_read(api, run.id))
    await api.until(run.id, is_event("message.delta"))
    await api.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=run.thread_id))
    last, status = await reading
    # The reader sees the end if it comes that far; else it is told that there is nothing left.
    assert last == "run.cancelled" or status is grpc.StatusCode.NOT_FOUND
    assert (await api.runs.ListRuns(v1.ListRunsRequest(assistant_id=run.assistant_id))).runs == []


async def _read(api: Api, run_id: str) -> tuple[str, grpc.StatusCode]:
    last = ""
    try:
        async for event in api.follow(run_id):
            last = event_name(event)
    except grpc.aio.AioRpcError as error:
        return last, error.code()
    return last, grpc.StatusCode.OK
