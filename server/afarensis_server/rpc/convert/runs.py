"""Runs and run steps."""

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
from ...validation import Reason, Violations
from .executions import code_output_message, result_message
from .tools import (
    response_format_message,
    tool_choice_message,
    tool_message,
    tool_resources_message,
    truncation_strategy_message,
    usage_message,
)
from .values import enum_numbers, enum_value, inverse, timestamp_message

_STATUSES = enum_numbers(pb.RunStatus, "RUN_STATUS_", RunStatus)
_STEP_STATUSES = enum_numbers(pb.RunStepStatus, "RUN_STEP_STATUS_", StepStatus)
_ERROR_CODES = enum_numbers(pb.LastErrorCode, "LAST_ERROR_CODE_", RunErrorCode)
_REASONS = enum_numbers(pb.RunIncompleteReason, "RUN_INCOMPLETE_REASON_", RunIncompleteReason)


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
        usage=usage_message(step.usage),
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


def run_status_value(number: int, path: str, found: Violations) -> RunStatus | None:
    if number == pb.RUN_STATUS_UNSPECIFIED:
        found.add(path, Reason.INVALID_VALUE, f"Invalid '{path}': RUN_STATUS_UNSPECIFIED is no status to filter by.")
    return enum_value(number, inverse(_STATUSES), path, found)
