"""Runs and run steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from afarensis import v1 as pb

from ...domain.runs import (
    CodeInterpreterCall,
    FunctionCall,
    MessageCreation,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunStatus,
    RunStep,
    StepStatus,
    ToolCall,
    ToolCalls,
)
from ...runs.fields import RunFields
from ...threads.service import MessageFields, ThreadFields
from ...validation import Reason, Violations
from ..masks import fields_to_create
from .executions import code_output_message, result_message
from .threads import message_inputs, thread_fields
from .tools import (
    response_format_message,
    response_format_value,
    tool_choice_message,
    tool_choice_value,
    tool_message,
    tool_resources_message,
    tools_value,
    truncation_strategy_message,
    truncation_strategy_value,
    usage_message,
)
from .values import enum_numbers, enum_value, given, inverse, seconds_value, timestamp_message

_STATUSES = enum_numbers(pb.RunStatus, "RUN_STATUS_", RunStatus)
_STEP_STATUSES = enum_numbers(pb.RunStepStatus, "RUN_STEP_STATUS_", StepStatus)
_ERROR_CODES = enum_numbers(pb.LastErrorCode, "LAST_ERROR_CODE_", RunErrorCode)
_REASONS = enum_numbers(pb.RunIncompleteReason, "RUN_INCOMPLETE_REASON_", RunIncompleteReason)
_SCALARS = (
    "model",
    "instructions",
    "additional_instructions",
    "temperature",
    "top_p",
    "max_prompt_tokens",
    "max_completion_tokens",
    "parallel_tool_calls",
    "reasoning_effort",
)


def run_message(run: Run) -> pb.Run:
    reason = run.incomplete_reason
    return pb.Run(
        id=run.id,
        create_time=timestamp_message(run.create_time),
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        status=_STATUSES[run.status],
        required_action=_required_action_message(run),
        last_error=_last_error_message(run.last_error),
        incomplete_details=None if reason is None else pb.RunIncompleteDetails(reason=_REASONS[reason]),
        expire_time=timestamp_message(run.expire_time),
        start_time=timestamp_message(run.start_time),
        complete_time=timestamp_message(run.complete_time),
        cancel_time=timestamp_message(run.cancel_time),
        fail_time=timestamp_message(run.fail_time),
        incomplete_time=timestamp_message(run.incomplete_time),
        expired_time=timestamp_message(run.expired_time),
        model=run.model,
        instructions=run.instructions,
        tools=[tool_message(tool) for tool in run.tools],
        tool_resources=tool_resources_message(run.tool_resources),
        metadata=run.metadata,
        temperature=run.temperature,
        top_p=run.top_p,
        max_prompt_tokens=run.max_prompt_tokens,
        max_completion_tokens=run.max_completion_tokens,
        truncation_strategy=truncation_strategy_message(run.truncation_strategy),
        tool_choice=tool_choice_message(run.tool_choice),
        parallel_tool_calls=run.parallel_tool_calls,
        response_format=response_format_message(run.response_format),
        reasoning_effort=run.reasoning_effort or "",
        usage=usage_message(run.usage),
    )


def _required_action_message(run: Run) -> pb.RequiredAction | None:
    if run.required_action is None:
        return None
    calls = [tool_call_message(call) for call in run.required_action.calls]
    return pb.RequiredAction(submit_tool_outputs=pb.SubmitToolOutputsAction(tool_calls=calls))


def _last_error_message(error: RunError | None) -> pb.LastError | None:
    if error is None:
        return None
    return pb.LastError(code=_ERROR_CODES[error.code], message=error.message, reason=error.reason)


def run_step_message(step: RunStep) -> pb.RunStep:
    message = pb.RunStep(
        id=step.id,
        create_time=timestamp_message(step.create_time),
        run_id=step.run_id,
        thread_id=step.thread_id,
        assistant_id=step.assistant_id,
        status=_STEP_STATUSES[step.status],
        last_error=_last_error_message(step.last_error),
        complete_time=timestamp_message(step.complete_time),
        cancel_time=timestamp_message(step.cancel_time),
        fail_time=timestamp_message(step.fail_time),
        expired_time=timestamp_message(step.expired_time),
        metadata=step.metadata,
        # Its row has it as soon as the model has answered; clients get it once the step is over.
        usage=None if step.status is StepStatus.IN_PROGRESS else usage_message(step.usage),
    )
    match step.details:
        case MessageCreation():
            message.message_creation.message_id = step.details.message_id
        case ToolCalls():
            # Present even when it is empty, as it is when the step is created.
            message.tool_calls.SetInParent()
            message.tool_calls.tool_calls.extend(tool_call_message(call) for call in step.details.calls)
    return message


def tool_call_message(call: ToolCall) -> pb.ToolCall:
    match call:
        case CodeInterpreterCall():
            return pb.ToolCall(
                id=call.id,
                code_interpreter=pb.CodeInterpreterCall(
                    input=call.input,
                    outputs=[code_output_message(item) for item in call.outputs],
                    result=None if call.result is None else result_message(call.result),
                    session_id=call.session_id or "",
                    execution_id=call.execution_id or "",
                    state_lost=call.state_lost,
                ),
            )
        case FunctionCall():
            function = pb.FunctionCall(name=call.name, arguments_json=call.arguments_json, output=call.output)
            return pb.ToolCall(id=call.id, function=function)


def run_statuses_value(numbers: Sequence[int]) -> tuple[RunStatus, ...]:
    """The statuses of a filter."""
    found = Violations()
    statuses = []
    for index, number in enumerate(numbers):
        path = f"statuses[{index}]"
        status = enum_value(number, inverse(_STATUSES), path, found)
        if status is not None:
            statuses.append(status)
        elif number == pb.RUN_STATUS_UNSPECIFIED:
            found.add(
                path, Reason.INVALID_VALUE, f"Invalid '{path}': RUN_STATUS_UNSPECIFIED is no status to filter by."
            )
    found.check()
    return tuple(statuses)


def run_fields(request: pb.CreateRunRequest, path: str) -> tuple[RunFields, list[MessageFields]]:
    """The fields of a run to create and the messages to add before; ``path`` is that of the request, with its dot."""
    found = Violations()
    names = fields_to_create(request)
    fields: dict[str, object] = {name: given(request, name) for name in _SCALARS if name in names}
    fields["assistant_id"] = request.assistant_id
    if "tools" in names:
        fields["tools"] = tools_value(request.tools, f"{path}tools", found)
    if "metadata" in names:
        fields["metadata"] = dict(request.metadata)
    if "truncation_strategy" in names:
        strategy = truncation_strategy_value(request.truncation_strategy, f"{path}truncation_strategy", found)
        fields["truncation_strategy"] = strategy
    if "tool_choice" in names:
        fields["tool_choice"] = tool_choice_value(request.tool_choice, f"{path}tool_choice", found)
    if "response_format" in names:
        fields["response_format"] = response_format_value(request.response_format, f"{path}response_format", found)
    if "ttl" in names:
        fields["ttl_seconds"] = seconds_value(request.ttl, f"{path}ttl", found)
    found.check()
    return cast(RunFields, fields), message_inputs(request.additional_messages, f"{path}additional_messages")


@dataclass(frozen=True, slots=True)
class NewThreadAndRun:
    """What it takes to create a thread and a run on it."""

    thread: ThreadFields
    messages: list[MessageFields]
    run: RunFields
    additional_messages: list[MessageFields]


def thread_and_run_fields(request: pb.CreateThreadAndRunRequest) -> NewThreadAndRun:
    found = Violations()
    for path, value in (
        ("thread.request_id", request.thread.request_id),
        ("run.request_id", request.run.request_id),
        ("run.thread_id", request.run.thread_id),
    ):
        if value:
            found.add(
                path, Reason.INVALID_VALUE, f"Invalid '{path}': must be empty when thread and run are created together."
            )
    if not request.HasField("run"):
        found.required("run")
    found.check()
    run, additional_messages = run_fields(request.run, "run.")
    return NewThreadAndRun(
        thread_fields(request.thread, fields_to_create(request.thread)),
        message_inputs(request.thread.messages, "thread.messages"),
        run,
        additional_messages,
    )
