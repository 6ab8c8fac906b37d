from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration

from afarensis import v1 as pb
from afarensis_server.domain import events, executions, files, runs, threads, tools
from afarensis_server.errors import InvalidFields
from afarensis_server.rpc.convert.assistants import assistant_fields
from afarensis_server.rpc.convert.events import run_event_message
from afarensis_server.rpc.convert.executions import code_output_message, result_message
from afarensis_server.rpc.convert.runs import run_fields, run_message, run_step_message, thread_and_run_fields
from afarensis_server.rpc.convert.threads import message_fields, message_message
from afarensis_server.rpc.convert.tools import (
    response_format_message,
    response_format_value,
    tool_choice_message,
    tool_choice_value,
    tool_message,
    tool_value,
    truncation_strategy_message,
    truncation_strategy_value,
)
from afarensis_server.rpc.convert.values import seconds_value, timestamp_message
from afarensis_server.validation import Violations

NOW = datetime(2026, 11, 22, 23, 42, 25, 578752, tzinfo=UTC)
RUN = runs.Run("run_1", "default", "thread_1", "asst_1", NOW, runs.RunStatus.QUEUED, "direct")
STEP = runs.RunStep(
    "step_1", "default", "run_1", "thread_1", "asst_1", NOW, runs.StepStatus.IN_PROGRESS, runs.ToolCalls()
)
FILE = files.File("file-1", "default", NOW, "x.csv", files.FilePurpose.ASSISTANTS_OUTPUT, 3, "0" * 64, "text/csv")


def test_times_keep_their_microseconds_and_their_zone() -> None:
    message = timestamp_message(NOW)
    assert message is not None
    assert message.ToDatetime(UTC) == NOW
    assert timestamp_message(NOW.astimezone(timezone(timedelta(hours=9)))) == message


@pytest.mark.parametrize(
    "tool",
    [
        tools.CodeInterpreterTool(),
        tools.CodeInterpreterTool(1.5),
        tools.FunctionTool("f"),
        tools.FunctionTool("f", "does", '{"type": "object"}', False),
    ],
)
def test_tools_come_back_as_they_went(tool: tools.Tool) -> None:
    assert tool_value(tool_message(tool), "tools[0]", Violations()) == tool


@pytest.mark.parametrize(
    "choice",
    [tools.ToolChoice(mode, "f" if mode is tools.ToolChoiceMode.FUNCTION else None) for mode in tools.ToolChoiceMode],
)
def test_tool_choices_come_back_as_they_went(choice: tools.ToolChoice) -> None:
    assert tool_choice_value(tool_choice_message(choice), "tool_choice", Violations()) == choice


@pytest.mark.parametrize(
    "response_format",
    [
        tools.ResponseFormat(),
        tools.ResponseFormat(tools.ResponseFormatType.JSON_OBJECT),
        tools.ResponseFormat(tools.ResponseFormatType.JSON_SCHEMA, "n", "d", "{}", True),
    ],
)
def test_response_formats_come_back_as_they_went(response_format: tools.ResponseFormat) -> None:
    message = response_format_message(response_format)
    assert message is not None
    assert response_format_value(message, "response_format", Violations()) == response_format


@pytest.mark.parametrize(
    "strategy",
    [runs.TruncationStrategy(), runs.TruncationStrategy(runs.TruncationType.LAST_MESSAGES, 3)],
)
def test_truncation_strategies_come_back_as_they_went(strategy: runs.TruncationStrategy) -> None:
    message = truncation_strategy_message(strategy)
    assert truncation_strategy_value(message, "truncation_strategy", Violations()) == strategy


def test_truncation_to_a_number_of_messages_needs_no_type() -> None:
    strategy = truncation_strategy_value(pb.TruncationStrategy(last_messages=3), "truncation_strategy", Violations())
    assert strategy == runs.TruncationStrategy(runs.TruncationType.LAST_MESSAGES, 3)


def refused_fields(violations: Violations) -> list[str]:
    with pytest.raises(InvalidFields) as refused:
        violations.check()
    return [violation.field for violation in refused.value.violations]


def test_structures_without_a_kind_are_refused_together() -> None:
    code = pb.Tool(code_interpreter=pb.CodeInterpreterTool())
    request = pb.CreateAssistantRequest(tools=[pb.Tool(), code, pb.Tool()], response_format=pb.ResponseFormat())
    with pytest.raises(InvalidFields) as refused:
        assistant_fields(request, {"tools", "response_format"})
    assert [violation.field for violation in refused.value.violations] == ["tools[0]", "tools[2]", "response_format"]


def test_enum_values_of_newer_contracts_are_refused() -> None:
    request = pb.CreateMessageRequest(text="x", role=99)  # type: ignore[arg-type]  # what a newer client would send
    with pytest.raises(InvalidFields, match="Invalid 'role': 99 is not a value of this enum"):
        message_fields(request)


def test_cleared_fields_become_none_and_a_cleared_model_empty() -> None:
    fields = assistant_fields(pb.UpdateAssistantRequest(), {"name", "model", "tools", "metadata", "response_format"})
    assert fields == {"name": None, "model": "", "tools": (), "metadata": {}, "response_format": None}


@pytest.mark.parametrize(
    "duration",
    [Duration(seconds=400_000_000_000), Duration(seconds=1, nanos=-1), Duration(nanos=2_000_000_000)],
)
def test_durations_that_are_none_are_refused(duration: Duration) -> None:
    found = Violations()
    seconds_value(duration, "ttl", found)
    assert refused_fields(found) == ["ttl"]


def test_run_takes_what_is_given_and_leaves_the_rest_to_the_assistant() -> None:
    request = pb.CreateRunRequest(assistant_id="asst_1", instructions="", parallel_tool_calls=False)
    request.ttl.FromMilliseconds(1_500)
    fields, messages = run_fields(request, "")
    assert fields == {
        "assistant_id": "asst_1",
        "instructions": "",
        "parallel_tool_calls": False,
        "ttl_seconds": 1.5,
    }
    assert messages == []


def test_violations_of_a_run_within_another_request_are_named_from_its_top() -> None:
    request = pb.CreateThreadAndRunRequest(run=pb.CreateRunRequest(assistant_id="a", tools=[pb.Tool()]))
    with pytest.raises(InvalidFields) as refused:
        thread_and_run_fields(request)
    assert [violation.field for violation in refused.value.violations] == ["run.tools[0]"]


def test_ids_that_make_no_sense_within_another_request_are_refused() -> None:
    request = pb.CreateThreadAndRunRequest(
        thread=pb.CreateThreadRequest(request_id="a"),
        run=pb.CreateRunRequest(request_id="b", thread_id="c", assistant_id="d"),
    )
    with pytest.raises(InvalidFields) as refused:
        thread_and_run_fields(request)
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["thread.request_id", "run.request_id", "run.thread_id"]


@pytest.mark.parametrize("status", runs.RunStatus)
def test_every_run_status_has_its_name_in_the_contract(status: runs.RunStatus) -> None:
    message = run_message(replace(RUN, status=status))
    assert pb.RunStatus.Name(message.status) == f"RUN_STATUS_{status.name}"


def test_absent_fields_of_a_run_stay_absent() -> None:
    message = run_message(RUN)
    for field in ("required_action", "last_error", "incomplete_details", "expire_time", "usage", "instructions"):
        assert field not in {descriptor.name for descriptor, _ in message.ListFields()}
    assert message.tool_choice.mode == pb.TOOL_CHOICE_MODE_AUTO
    assert message.parallel_tool_calls


def test_step_without_calls_yet_is_a_step_of_calls() -> None:
    assert run_step_message(STEP).WhichOneof("step_details") == "tool_calls"


@pytest.mark.parametrize("kind", events.EventType)
def test_every_event_type_has_its_name_in_the_contract(kind: events.EventType) -> None:
    message = run_event_message(events.RunEvent("run_1", 7, NOW, kind, RUN))
    name = pb.RunEventType.Name(message.type).removeprefix("RUN_EVENT_TYPE_").lower()
    assert name.replace("_", ".") == kind.value.replace("_", ".")
    assert message.sequence == 7


def test_step_delta_carries_each_kind_of_output() -> None:
    output = executions.OutputItem(executions.OutputStream.STDERR, "oops", 3)
    display = executions.DisplayItem((executions.Representation("image/png", file_id="file-1"),))
    change = executions.FileItem("/mnt/data/x.csv", executions.FileChangeKind.CREATED, FILE, 3)
    items: tuple[executions.ExecutionItem, ...] = (output, display, change)
    delta = events.RunStepDelta(
        "step_1",
        (
            events.CodeInterpreterCallDelta(
                0, "call_1", "x", tuple(events.OutputDelta(i, item) for i, item in enumerate(items))
            ),
            events.FunctionCallDelta(1, "call_2", "f", "{", None),
        ),
    )
    event = events.RunEvent("run_1", 1, NOW, events.EventType.STEP_DELTA, delta)
    code, function = run_event_message(event).run_step_delta.tool_calls
    text, shown, file = code.code_interpreter.outputs
    assert (text.output.stream, text.output.text, text.output.dropped_bytes) == (pb.OUTPUT_STREAM_STDERR, "oops", 3)
    assert shown.display.representations[0].file_id == "file-1"
    assert (file.file.path, file.file.file.id) == ("/mnt/data/x.csv", "file-1")
    assert (function.function.name, function.function.HasField("output")) == ("f", False)


def test_message_delta_numbers_its_annotations() -> None:
    annotations = tuple(threads.FilePathAnnotation("sandbox:/x", i, i + 1, f"file-{i}") for i in range(2))
    part = events.MessageContentDelta(0, threads.TextContent("", annotations))
    delta = events.MessageDelta("msg_1", (part,))
    event = events.RunEvent("run_1", 1, NOW, events.EventType.MESSAGE_DELTA, delta)
    (content,) = run_event_message(event).message_delta.content
    assert [(item.index, item.annotation.file_path.file_id) for item in content.text.annotations] == [
        (0, "file-0"),
        (1, "file-1"),
    ]


def test_empty_representation_stays_text() -> None:
    item = executions.DisplayItem((executions.Representation("text/plain", text=""),))
    message = code_output_message(item)
    assert message.display.representations[0].WhichOneof("content") == "text"


def test_result_tells_durations_limits_and_error() -> None:
    result = executions.ExecutionResult(
        executions.ExecutionStatus.TIMEOUT,
        1.25,
        error=executions.CodeError("TimeoutError", "too long", ""),
        exceeded_limits=(executions.ExceededLimit("timeout", 1_000, 1_250),),
    )
    message = result_message(result)
    assert message.wall_duration.ToMilliseconds() == 1_250
    assert (message.error.name, message.exceeded_limits[0].name) == ("TimeoutError", "timeout")


def test_message_of_an_assistant_keeps_every_kind_of_content() -> None:
    message = threads.Message(
        "msg_1",
        "default",
        "thread_1",
        NOW,
        threads.MessageRole.ASSISTANT,
        threads.MessageStatus.INCOMPLETE,
        (
            threads.TextContent("hi"),
            threads.ImageFileContent("file-1"),
            threads.ImageUrlContent("https://x", "low"),
            threads.RefusalContent("no"),
        ),
        (threads.Attachment("file-1", (tools.CodeInterpreterTool(),)),),
        incomplete_reason=threads.MessageIncompleteReason.MAX_TOKENS,
    )
    converted = message_message(message)
    assert [part.WhichOneof("content") for part in converted.content] == ["text", "image_file", "image_url", "refusal"]
    assert converted.content[2].image_url.detail == pb.IMAGE_DETAIL_LOW
    assert converted.attachments[0].tools == [pb.TOOL_TYPE_CODE_INTERPRETER]
    assert converted.incomplete_details.reason == pb.MESSAGE_INCOMPLETE_REASON_MAX_TOKENS
