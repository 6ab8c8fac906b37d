"""What a run demands of its model, on an endpoint that does not see to it."""

import pytest

from afarensis_server.domain.events import EventType
from afarensis_server.domain.executions import ExecutionStatus
from afarensis_server.domain.runs import CodeInterpreterCall, FunctionCall, MessageCreation, Run, RunStatus, ToolCalls
from afarensis_server.domain.threads import TextContent
from afarensis_server.domain.tools import (
    CodeInterpreterTool,
    ResponseFormat,
    ResponseFormatType,
    ToolChoice,
    ToolChoiceMode,
)
from afarensis_server.runs.submitting import ToolOutput
from afarensis_server.store.pages import PageRequest
from tests.support.scripted_model import Delta, Turn, call, calls, code, text

from .conftest import LOOKUP, PROJECT, Build, House

OBJECT = ResponseFormat(ResponseFormatType.JSON_OBJECT)
SCHEMA = ResponseFormat(ResponseFormatType.JSON_SCHEMA, "answer", schema_json='{"type": "object"}', strict=True)


async def said(house: House, run: Run) -> list[str]:
    page = await house.threads.list_messages(PROJECT, run.thread_id, PageRequest(descending=False))
    return ["".join(part.value for part in item.content if isinstance(part, TextContent)) for item in page.items]


async def made_calls(house: House, run: Run) -> list[CodeInterpreterCall | FunctionCall]:
    page = await house.runs.list_steps(PROJECT, run.id, PageRequest(descending=False))
    return [call for step in page.items if isinstance(step.details, ToolCalls) for call in step.details.calls]


async def test_calls_are_refused_where_no_tools_may_be_used(house: Build) -> None:
    built = await house([code("print('ran')"), text("Without.")])
    run = await built.settled(await built.run(CodeInterpreterTool(), tool_choice=ToolChoice(ToolChoiceMode.NONE)))
    assert run.status is RunStatus.COMPLETED
    (refused,) = await made_calls(built, run)
    assert isinstance(refused, CodeInterpreterCall)
    assert refused.result is not None
    assert (refused.result.status, refused.execution_id) == (ExecutionStatus.ERROR, None)
    assert "No tools may be used in this run." in built.endpoint.requests[1].tool_texts[0]


async def test_one_call_at_a_time_is_answered(house_with_sandbox: Build) -> None:
    both = calls(("a", "code_interpreter", {"code": "print(1)"}), ("b", "code_interpreter", {"code": "print(2)"}))
    built = await house_with_sandbox([both, text("Done.")])
    run = await built.settled(await built.run(CodeInterpreterTool(), parallel_tool_calls=False))
    assert run.status is RunStatus.COMPLETED
    first, second = built.endpoint.requests[1].tool_texts
    assert first.startswith("1\n")
    assert "Only one tool call at a time is allowed in this run." in second


async def test_only_the_first_of_two_functions_waits_for_the_client(house: Build) -> None:
    both = calls(("a", "lookup", {"word": "x"}), ("b", "lookup", {"word": "y"}))
    built = await house([both, text("Done.")])
    run = await built.settled(await built.run(LOOKUP, parallel_tool_calls=False))
    assert run.required_action is not None
    (waiting,) = run.required_action.calls
    assert waiting.arguments_json == '{"word": "x"}'
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(waiting.id, "found")])
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    found, refused = built.endpoint.requests[1].tool_texts
    assert found == "found"
    assert "Only one tool call at a time" in refused


async def test_model_that_does_not_call_a_tool_is_reminded(house: Build) -> None:
    built = await house([text("I know it."), call("lookup", {"word": "x"}), text("Done.")])
    run = await built.settled(await built.run(LOOKUP, tool_choice=ToolChoice(ToolChoiceMode.REQUIRED)))
    assert run.required_action is not None
    last = built.endpoint.requests[1].body["messages"][-1]
    assert (last["role"], last["content"]) == ("user", "Call one of the tools before you answer.")
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(run.required_action.calls[0].id, "y")])
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    assert await said(built, run) == ["Hello", "I know it.", "Done."]
    assert "Call one of the tools" not in str(built.endpoint.requests[2].body["messages"])


async def test_run_whose_model_will_not_call_the_tool_fails_and_says_so(house: Build) -> None:
    built = await house([text("No."), text("Still no.")])
    choice = ToolChoice(ToolChoiceMode.FUNCTION, "lookup")
    run = await built.settled(await built.run(LOOKUP, tool_choice=choice))
    assert run.status is RunStatus.FAILED
    assert run.last_error is not None
    assert run.last_error.reason == "TOOL_CHOICE_IGNORED"
    assert "Call the tool 'lookup' before you answer." in run.last_error.message
    assert run.usage is not None
    assert run.usage.prompt_tokens == 200


async def test_another_tool_than_the_forced_one_is_refused(house: Build) -> None:
    built = await house([code("print('ran')"), call("lookup", {"word": "x"})])
    choice = ToolChoice(ToolChoiceMode.FUNCTION, "lookup")
    run = await built.settled(await built.run(CodeInterpreterTool(), LOOKUP, tool_choice=choice))
    assert run.required_action is not None
    assert "Call the tool 'lookup' first." in built.endpoint.requests[1].tool_texts[0]
    (refused, _) = await made_calls(built, run)
    assert isinstance(refused, CodeInterpreterCall)
    assert refused.execution_id is None


@pytest.mark.parametrize("wanted", [OBJECT, SCHEMA], ids=["json_object", "json_schema"])
async def test_answer_in_another_format_fails_the_run_and_says_so(house: Build, wanted: ResponseFormat) -> None:
    built = await house([text("Here it is: {}")])
    run = await built.settled(await built.run(response_format=wanted))
    assert run.status is RunStatus.FAILED
    assert run.last_error is not None
    assert run.last_error.reason == "RESPONSE_FORMAT_MISSED"
    assert "it is not JSON" in run.last_error.message
    assert await said(built, run) == ["Hello", "Here it is: {}"]


@pytest.mark.parametrize("wanted", [OBJECT, SCHEMA], ids=["json_object", "json_schema"])
async def test_answer_in_the_format_completes_the_run(house: Build, wanted: ResponseFormat) -> None:
    built = await house([text('{"a": ', "1}")])
    assert (await built.settled(await built.run(response_format=wanted))).status is RunStatus.COMPLETED


async def test_refusal_needs_no_format(house: Build) -> None:
    built = await house([Turn((Delta({"refusal": "I may not."}),))])
    assert (await built.settled(await built.run(response_format=OBJECT))).status is RunStatus.COMPLETED


async def test_words_behind_calls_come_once_these_are_answered(house_with_sandbox: Build) -> None:
    late = code("print(1)")
    built = await house_with_sandbox([late.then(Delta({"content": "Let us see."})), text("One.")])
    run = await built.run(CodeInterpreterTool())
    kinds = [event.type for event in await built.events(run) if event.type is not EventType.MESSAGE_DELTA]
    first_step_done = kinds.index(EventType.STEP_COMPLETED)
    assert EventType.MESSAGE_CREATED not in kinds[:first_step_done]
    assert await said(built, run) == ["Hello", "Let us see.", "One."]
    page = await built.runs.list_steps(PROJECT, run.id, PageRequest(descending=False))
    assert [isinstance(step.details, MessageCreation) for step in page.items] == [False, True, True]


async def test_words_behind_functions_come_before_the_client_is_asked(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"}).then(Delta({"content": "I look it up."})), text("Found.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.required_action is not None
    assert await said(built, run) == ["Hello", "I look it up."]
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(run.required_action.calls[0].id, "y")])
    assert (await built.settled(run)).status is RunStatus.COMPLETED
    assert await said(built, run) == ["Hello", "I look it up.", "Found."]
