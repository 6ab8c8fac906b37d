"""What RunService refuses, and in which words: the status, the reason, the field and the text."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from afarensis import v1
from tests.support.api import LOOKUP, Api, refused, seconds
from tests.support.scripted_model import Wait, call, calls, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Add = Callable[..., Script]

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, RANGE = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE

NO_RUN = "run_00000000000000000000000000"


@pytest.mark.parametrize("run_id", [NO_RUN, "nonsense", "run_%00", "ü" * 1000], ids=repr)
async def test_calls_about_a_run_that_does_not_exist_are_refused(api: Api, run_id: str) -> None:
    runs = api.runs
    text_ = f"No run found with id '{run_id}'." if len(run_id) < 100 else None
    for make in (
        lambda: runs.GetRun(v1.GetRunRequest(run_id=run_id)),
        lambda: runs.UpdateRun(v1.UpdateRunRequest(run_id=run_id, metadata={"a": "b"})),
        lambda: runs.CancelRun(v1.CancelRunRequest(run_id=run_id)),
        lambda: runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=run_id)),
        lambda: runs.WaitRun(v1.WaitRunRequest(run_id=run_id)),
        lambda: runs.ListRunSteps(v1.ListRunStepsRequest(run_id=run_id)),
        lambda: runs.ListRunEvents(v1.ListRunEventsRequest(run_id=run_id)),
        lambda: api.events(run_id),
    ):
        with refused(NOT_FOUND, "RUN_NOT_FOUND", text_):
            await make()


async def test_step_that_does_not_exist_is_refused(api: Api) -> None:
    with refused(NOT_FOUND, "RUN_STEP_NOT_FOUND", "No run step found with id 'step_1'."):
        await api.runs.GetRunStep(v1.GetRunStepRequest(run_step_id="step_1"))


async def test_run_needs_a_thread_and_an_assistant_that_exist(api: Api) -> None:
    assistant, thread = await api.assistant(), await api.thread()
    with refused(NOT_FOUND, "THREAD_NOT_FOUND", "No thread found with id 'thread_1'."):
        await api.runs.CreateRun(v1.CreateRunRequest(thread_id="thread_1", assistant_id=assistant.id))
    with refused(NOT_FOUND, "ASSISTANT_NOT_FOUND", "No assistant found with id 'asst_1'."):
        await api.runs.CreateRun(v1.CreateRunRequest(thread_id=thread.id, assistant_id="asst_1"))
    with refused(NOT_FOUND, "ASSISTANT_NOT_FOUND"):
        await api.runs.CreateThreadAndRun(v1.CreateThreadAndRunRequest(run=v1.CreateRunRequest(assistant_id="asst_1")))
    with refused(NOT_FOUND, "THREAD_NOT_FOUND"):
        await api.runs.ListRuns(v1.ListRunsRequest(thread_id="thread_1"))


async def test_what_is_missing_is_named_all_at_once(api: Api) -> None:
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.CreateRun(v1.CreateRunRequest())
    assert refusal.violations == [("thread_id", "REQUIRED"), ("assistant_id", "REQUIRED")]
    assert refusal.message == ("Missing required parameter: 'thread_id'. Missing required parameter: 'assistant_id'.")
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.CreateThreadAndRun(v1.CreateThreadAndRunRequest())
    assert refusal.violations == [("run", "REQUIRED")]
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.CreateThreadAndRun(v1.CreateThreadAndRunRequest(run=v1.CreateRunRequest()))
    assert refusal.violations == [("run.assistant_id", "REQUIRED")]
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await _drain(api.runs.CreateRunStream(v1.CreateRunStreamRequest()))
    assert refusal.violations == [("run", "REQUIRED")]


LONG = "x" * 256_001
TOO_LONG = (
    "Invalid '{}': string too long. Expected a string with maximum length {}, but got a string with length {} instead."
)
TOO_MANY = (
    "Invalid '{}': array too long. Expected an array with maximum length {}, but got an array with length {} instead."
)


@pytest.mark.parametrize(
    ("fields", "field", "reason", "description"),
    [
        ({"instructions": LONG}, "instructions", "STRING_TOO_LONG", TOO_LONG.format("instructions", 256_000, 256_001)),
        (
            {"additional_instructions": LONG},
            "additional_instructions",
            "STRING_TOO_LONG",
            TOO_LONG.format("additional_instructions", 256_000, 256_001),
        ),
        ({"model": "m" * 257}, "model", "STRING_TOO_LONG", TOO_LONG.format("model", 256, 257)),
        ({"request_id": "r" * 129}, "request_id", "STRING_TOO_LONG", TOO_LONG.format("request_id", 128, 129)),
        (
            {"reasoning_effort": "r" * 65},
            "reasoning_effort",
            "STRING_TOO_LONG",
            TOO_LONG.format("reasoning_effort", 64, 65),
        ),
        ({"instructions": "a\0b"}, "instructions", "INVALID_CHARACTER", None),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "TOO_MANY_ITEMS", None),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "STRING_TOO_LONG", TOO_LONG.format("metadata.k", 512, 513)),
        ({"metadata": {"k" * 65: ""}}, "metadata", "STRING_TOO_LONG", None),
        (
            {"temperature": 2.5},
            "temperature",
            "OUT_OF_RANGE_VALUE",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
        ),
        ({"temperature": float("nan")}, "temperature", "OUT_OF_RANGE_VALUE", None),
        ({"top_p": -0.1}, "top_p", "OUT_OF_RANGE_VALUE", None),
        (
            {"max_prompt_tokens": 255},
            "max_prompt_tokens",
            "OUT_OF_RANGE_VALUE",
            "Invalid 'max_prompt_tokens': integer below minimum value. Expected a value >= 256, but got 255 instead.",
        ),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "OUT_OF_RANGE_VALUE", None),
        ({"ttl": Duration(nanos=1)}, "ttl", "OUT_OF_RANGE_VALUE", None),
        ({"ttl": Duration(seconds=86_401)}, "ttl", "OUT_OF_RANGE_VALUE", None),
        ({"ttl": Duration(seconds=1, nanos=-1)}, "ttl", "INVALID_VALUE", "Invalid 'ttl': not a valid duration."),
        ({"tools": [v1.Tool()]}, "tools[0]", "REQUIRED", None),
        ({"tools": [LOOKUP] * 2}, "tools[1].function.name", "DUPLICATE_ITEM", None),
        (
            {"tools": [v1.Tool(function=v1.FunctionTool(name=f"f{n}")) for n in range(21)]},
            "tools",
            "TOO_MANY_ITEMS",
            TOO_MANY.format("tools", 20, 21),
        ),
        (
            {"tools": [v1.Tool(function=v1.FunctionTool(name="a b"))]},
            "tools[0].function.name",
            "INVALID_FORMAT",
            None,
        ),
        (
            {"tools": [v1.Tool(function=v1.FunctionTool(name="f", parameters_json="[1]"))]},
            "tools[0].function.parameters_json",
            "INVALID_JSON",
            None,
        ),
        (
            {"tools": [v1.Tool(code_interpreter=v1.CodeInterpreterTool(execution_timeout=Duration(seconds=601)))]},
            "tools[0].code_interpreter.execution_timeout",
            "OUT_OF_RANGE_VALUE",
            None,
        ),
        (
            {"tool_choice": v1.ToolChoice(function=v1.FunctionToolChoice(name="nothing"))},
            "tool_choice",
            "INVALID_VALUE",
            "Invalid 'tool_choice': there is no function 'nothing' among the tools of this run.",
        ),
        ({"tool_choice": v1.ToolChoice()}, "tool_choice", "REQUIRED", None),
        (
            {"truncation_strategy": v1.TruncationStrategy(type=v1.TRUNCATION_TYPE_LAST_MESSAGES)},
            "truncation_strategy.last_messages",
            "REQUIRED",
            None,
        ),
        (
            {"truncation_strategy": v1.TruncationStrategy(last_messages=0)},
            "truncation_strategy.last_messages",
            "OUT_OF_RANGE_VALUE",
            None,
        ),
        (
            {"truncation_strategy": v1.TruncationStrategy(type=v1.TRUNCATION_TYPE_AUTO, last_messages=3)},
            "truncation_strategy.last_messages",
            "INVALID_VALUE",
            None,
        ),
        (
            {"response_format": v1.ResponseFormat(json_schema=v1.JsonSchemaResponseFormat(name="n"))},
            "response_format.json_schema.schema_json",
            "REQUIRED",
            None,
        ),
        ({"additional_messages": [v1.MessageInput()]}, "additional_messages[0].content", "REQUIRED", None),
        (
            {"additional_messages": [v1.MessageInput(text=LONG)]},
            "additional_messages[0].text",
            "STRING_TOO_LONG",
            TOO_LONG.format("additional_messages[0].content", 256_000, 256_001),
        ),
        ({"additional_messages": [v1.MessageInput(text="x")] * 101}, "additional_messages", "TOO_MANY_ITEMS", None),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
async def test_field_beyond_its_limit_is_refused_by_its_name(
    api: Api, fields: dict[str, object], field: str, reason: str, description: str | None
) -> None:
    assistant, thread = await api.assistant(), await api.thread()
    run = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id, **fields)  # type: ignore[arg-type]
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.CreateRun(run)
    assert refusal.violations == [(field, reason)]
    if description is not None:
        assert refusal.descriptions == [description]
    # Nothing of it is there: no run, no message, no lock.
    assert len(await api.messages(thread.id)) == 1
    assert (await api.runs.ListRuns(v1.ListRunsRequest(thread_id=thread.id))).runs == []


async def test_model_that_does_not_exist_is_refused(api: Api) -> None:
    # The server of these tests has an endpoint, which may have any model; one without has `direct` alone.
    assistant, thread = await api.assistant(), await api.thread()
    wrong = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id, model="direct ")
    run = await api.settled((await api.runs.CreateRun(wrong)).run)
    assert run.status == v1.RUN_STATUS_FAILED


async def test_second_run_on_a_locked_thread_is_refused(api: Api, script: Add) -> None:
    run = await api.run(script(text("Well").then(Wait(asyncio.Event()))).model)
    locked = f"Thread {run.thread_id} already has an active run {run.id}."
    again = v1.CreateRunRequest(thread_id=run.thread_id, assistant_id=run.assistant_id)
    with refused(PRECONDITION, "THREAD_HAS_ACTIVE_RUN", locked) as refusal:
        await api.runs.CreateRun(again)
    assert refusal.metadata == {"thread_id": run.thread_id, "run_id": run.id}
    with refused(PRECONDITION, "THREAD_HAS_ACTIVE_RUN", locked):
        await _drain(api.runs.CreateRunStream(v1.CreateRunStreamRequest(run=again)))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))


async def test_message_on_a_locked_thread_is_refused_until_the_run_is_over(api: Api, script: Add) -> None:
    run = await api.run(script(text("Well").then(Wait(asyncio.Event()))).model)
    locked = f"Can't add messages to {run.thread_id} while a run {run.id} is active."
    with refused(PRECONDITION, "THREAD_HAS_ACTIVE_RUN", locked) as refusal:
        await api.say(run.thread_id, "And?")
    assert refusal.metadata["run_id"] == run.id
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    await api.settled(run)
    await api.say(run.thread_id, "And?")


async def test_one_of_many_runs_at_once_gets_the_thread(api: Api, script: Add) -> None:
    assistant = await api.assistant(script(text("Well").then(Wait(asyncio.Event()))).model)
    thread = await api.thread()
    request = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    answers = await asyncio.gather(*(api.runs.CreateRun(request) for _ in range(10)), return_exceptions=True)
    (made,) = [answer for answer in answers if isinstance(answer, v1.CreateRunResponse)]
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=made.run.id))


async def test_request_id_of_another_content_is_refused(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model, request_id=(used := f"used-{id(script)}")))
    for other in ({"instructions": "Other."}, {"thread_id": (await api.thread()).id}):
        request = v1.CreateRunRequest(request_id=used, thread_id=run.thread_id, assistant_id=run.assistant_id)
        request.MergeFrom(v1.CreateRunRequest(**other))  # type: ignore[arg-type]
        with refused(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
            await api.runs.CreateRun(request)


async def test_ids_that_must_be_empty_are_refused(api: Api) -> None:
    run = v1.CreateRunRequest(assistant_id="asst_1", thread_id="thread_1", request_id="b")
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.CreateThreadAndRun(
            v1.CreateThreadAndRunRequest(thread=v1.CreateThreadRequest(request_id="a"), run=run)
        )
    assert [field for field, _ in refusal.violations] == ["thread.request_id", "run.request_id", "run.thread_id"]


# --- files ------------------------------------------------------------------------------------------------------------


async def test_file_that_does_not_exist_is_refused(api: Api) -> None:
    assistant = await api.assistant()
    message = v1.MessageInput(text="x", attachments=[v1.MessageAttachment(file_id="file-1")])
    thread = await api.thread()
    with refused(NOT_FOUND, "FILE_NOT_FOUND", "No such File object: file-1"):
        await api.runs.CreateRun(
            v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id, additional_messages=[message])
        )
    with refused(NOT_FOUND, "FILE_NOT_FOUND", "No such File object: file-1"):
        await api.runs.CreateThreadAndRun(
            v1.CreateThreadAndRunRequest(
                thread=v1.CreateThreadRequest(messages=[message]), run=v1.CreateRunRequest(assistant_id=assistant.id)
            )
        )


# --- cancelling, answering --------------------------------------------------------------------------------------------


async def test_finished_run_cannot_be_cancelled(api: Api, script: Add) -> None:
    completed = await api.settled(await api.run(script(text("Hi")).model))
    with refused(PRECONDITION, "RUN_NOT_CANCELLABLE", "Cannot cancel run with status 'completed'.") as refusal:
        await api.runs.CancelRun(v1.CancelRunRequest(run_id=completed.id))
    assert refusal.metadata == {"status": "completed"}


async def test_cancelled_run_cannot_be_cancelled_again(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(call("lookup", {})).model, LOOKUP))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    await api.settled(run)
    with refused(PRECONDITION, "RUN_NOT_CANCELLABLE", "Cannot cancel run with status 'cancelled'."):
        await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))


async def test_outputs_that_are_not_those_of_the_calls_are_refused(api: Api, script: Add) -> None:
    model = script(calls(("a", "lookup", {}), ("b", "lookup", {})), text("Done.")).model
    run = await api.settled(await api.run(model, LOOKUP))
    first, second = (asked.id for asked in run.required_action.submit_tool_outputs.tool_calls)

    async def submit(*ids: str, output: str = "x") -> None:
        outputs = [v1.ToolOutput(tool_call_id=call_id, output=output) for call_id in ids]
        await api.runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=run.id, tool_outputs=outputs))

    for given in ([first], [first, first], [first, second, "call_c"], []):
        told = f"Expected tool outputs for call_ids ['{first}', '{second}'], got {given}"
        with refused(INVALID, "TOOL_OUTPUTS_MISMATCH", told):
            await submit(*given)
    large = [v1.ToolOutput(tool_call_id=call_id, output="x" * 600_000) for call_id in (first, second)]
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=run.id, tool_outputs=large))
    assert refusal.violations == [
        ("tool_outputs[0].output", "STRING_TOO_LONG"),
        ("tool_outputs[1].output", "STRING_TOO_LONG"),
    ]
    await submit(first, second)
    # Whose answer got lost asks again, and must not take what it is told for a failure.
    await submit(first, second)
    with refused(PRECONDITION, "RUN_NOT_AWAITING_TOOL_OUTPUTS"):
        await submit(first, second, output="y")
    await api.settled(run)
    await submit(second, first)
    with refused(PRECONDITION, "RUN_NOT_AWAITING_TOOL_OUTPUTS"):
        await submit(first, second, output="y")


async def test_outputs_for_a_run_that_is_over_are_refused(api: Api, script: Add) -> None:
    run = await api.run(script(call("lookup", {})).model, LOOKUP, ttl=seconds(1))
    expired = (await api.events(run.id))[-1].run
    assert expired.status == v1.RUN_STATUS_EXPIRED
    told = 'Runs in status "expired" do not accept tool outputs.'
    with refused(PRECONDITION, "RUN_NOT_AWAITING_TOOL_OUTPUTS", told) as refusal:
        await api.runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=run.id))
    assert refusal.metadata == {"status": "expired"}


# --- lists, cursors, masks --------------------------------------------------------------------------------------------


async def test_page_token_of_another_list_is_refused(api: Api, script: Add) -> None:
    assistant = await api.assistant(script(text("1"), text("2")).model)
    thread = await api.thread()
    create = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    run, _ = [await api.settled((await api.runs.CreateRun(create)).run) for _ in range(2)]
    token = (await api.runs.ListRuns(v1.ListRunsRequest(thread_id=thread.id, page_size=1))).next_page_token
    assert token
    for request in (
        v1.ListRunsRequest(page_token=token),
        v1.ListRunsRequest(thread_id=thread.id, page_token=token, order=v1.SORT_ORDER_ASCENDING),
        v1.ListRunsRequest(thread_id=thread.id, page_token=token[:-2]),
        v1.ListRunsRequest(thread_id=thread.id, page_token="x"),
        v1.ListRunsRequest(thread_id=thread.id, page_token=token, statuses=[v1.RUN_STATUS_COMPLETED]),
    ):
        with refused(INVALID, "PAGE_TOKEN_INVALID"):
            await api.runs.ListRuns(request)
    with refused(INVALID, "PAGE_TOKEN_INVALID"):
        await api.runs.ListRunSteps(v1.ListRunStepsRequest(run_id=run.id, page_token=token))


@pytest.mark.parametrize("size", [-1, 101, 2**31 - 1])
async def test_page_size_beyond_its_limit_is_refused(api: Api, size: int) -> None:
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.ListRuns(v1.ListRunsRequest(page_size=size))
    assert refusal.violations == [("page_size", "OUT_OF_RANGE_VALUE")]
    with refused(INVALID, "INVALID_FIELDS"):
        await api.runs.ListRunSteps(v1.ListRunStepsRequest(run_id=NO_RUN, page_size=size))


async def test_filter_by_no_status_is_refused(api: Api) -> None:
    with refused(INVALID, "INVALID_FIELDS") as refusal:
        await api.runs.ListRuns(v1.ListRunsRequest(statuses=[v1.RUN_STATUS_COMPLETED, v1.RUN_STATUS_UNSPECIFIED]))
    assert refusal.violations == [("statuses[1]", "INVALID_VALUE")]


async def test_cursor_beyond_the_end_is_refused_with_the_end(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model))
    last = (await api.events(run.id))[-1].sequence
    assert await api.events(run.id, last) == []
    for make in (
        lambda: api.events(run.id, last + 1),
        lambda: api.runs.ListRunEvents(v1.ListRunEventsRequest(run_id=run.id, after_sequence=last + 1)),
    ):
        with refused(RANGE, "CURSOR_PAST_END") as refusal:
            await make()
        assert refusal.metadata["last_sequence"] == str(last)


async def test_negative_cursor_is_refused(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model))
    for make in (
        lambda: api.events(run.id, -1),
        lambda: api.runs.ListRunEvents(v1.ListRunEventsRequest(run_id=run.id, after_sequence=-1)),
    ):
        with refused(INVALID, "INVALID_FIELDS") as refusal:
            await make()
        assert refusal.violations == [("after_sequence", "OUT_OF_RANGE_VALUE")]


async def test_mask_that_names_what_cannot_change_is_refused(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model))
    update = v1.UpdateRunRequest(run_id=run.id)
    update.update_mask.paths.append("status")
    with refused(INVALID, "UPDATE_MASK_INVALID") as refusal:
        await api.runs.UpdateRun(update)
    assert [field for field, _ in refusal.violations] == ["update_mask"]


async def _drain(items: object) -> None:
    async for _ in items:  # type: ignore[attr-defined]  # the calls of grpc have no common type
        pass
