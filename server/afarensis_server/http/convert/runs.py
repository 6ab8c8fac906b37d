"""Runs and run steps."""

from collections.abc import Iterable
from typing import cast

from ...domain.executions import DisplayItem, ExecutionItem, ExecutionResult, FileItem, OutputItem
from ...domain.runs import (
    CodeInterpreterCall,
    FunctionCall,
    MessageCreation,
    Run,
    RunError,
    RunStep,
    StepStatus,
    ToolCall,
)
from ...runs.fields import RunFields
from ...threads.service import MessageFields
from ..fields import Fields
from .threads import messages_value
from .tools import (
    resources_json,
    response_format_json,
    response_format_value,
    tool_choice_json,
    tool_choice_value,
    tool_json,
    tools_value,
    truncation_json,
    truncation_value,
    usage_json,
)
from .values import SAMPLING, Json, Shape, seconds

_STRINGS = ("assistant_id", "model", "instructions", "additional_instructions", "reasoning_effort")


def run_json(run: Run, shape: Shape) -> Json:
    reason = run.incomplete_reason
    found: Json = {
        "id": run.id,
        "object": "thread.run",
        "created_at": seconds(run.create_time),
        "assistant_id": run.assistant_id,
        "thread_id": run.thread_id,
        "status": run.status.value,
        "started_at": seconds(run.start_time),
        "expires_at": seconds(run.expire_time),
        "cancelled_at": seconds(run.cancel_time),
        "failed_at": seconds(run.fail_time),
        "completed_at": seconds(run.complete_time),
        "required_action": _required_action_json(run),
        "last_error": error_json(run.last_error),
        "model": run.model,
        "instructions": run.instructions or "",
        "tools": [tool_json(tool) for tool in run.tools],
    }
    if shape is Shape.V1:
        found["file_ids"] = list(run.tool_resources.code_interpreter_file_ids)
    else:
        found["tool_resources"] = resources_json(run.tool_resources, run.tools)
    return found | {
        "metadata": dict(run.metadata),
        "temperature": SAMPLING if run.temperature is None else run.temperature,
        "top_p": SAMPLING if run.top_p is None else run.top_p,
        "reasoning_effort": run.reasoning_effort,
        "max_completion_tokens": run.max_completion_tokens,
        "max_prompt_tokens": run.max_prompt_tokens,
        "truncation_strategy": truncation_json(run.truncation_strategy),
        "incomplete_details": None if reason is None else {"reason": reason.value},
        "usage": usage_json(run.usage),
        "response_format": response_format_json(run.response_format),
        "tool_choice": tool_choice_json(run.tool_choice),
        "parallel_tool_calls": run.parallel_tool_calls,
    }


def _required_action_json(run: Run) -> Json | None:
    if run.required_action is None:
        return None
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
        for call in run.required_action.calls
    ]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def error_json(error: RunError | None) -> Json | None:
    return None if error is None else {"code": error.code.value, "message": error.message}


def step_json(step: RunStep) -> Json:
    is_over = step.status is not StepStatus.IN_PROGRESS
    return {
        "id": step.id,
        "object": "thread.run.step",
        "created_at": seconds(step.create_time),
        "run_id": step.run_id,
        "assistant_id": step.assistant_id,
        "thread_id": step.thread_id,
        "type": step.details.type,
        "status": step.status.value,
        "cancelled_at": seconds(step.cancel_time),
        "completed_at": seconds(step.complete_time),
        "expired_at": seconds(step.expired_time),
        "expires_at": None,
        "failed_at": seconds(step.fail_time),
        "last_error": error_json(step.last_error),
        "step_details": _details_json(step),
        # Its row has it as soon as the model has answered; clients get it once the step is over.
        "usage": usage_json(step.usage) if is_over else None,
        "metadata": dict(step.metadata),
    }


def _details_json(step: RunStep) -> Json:
    if isinstance(step.details, MessageCreation):
        return {"type": "message_creation", "message_creation": {"message_id": step.details.message_id}}
    return {"type": "tool_calls", "tool_calls": [call_json(call) for call in step.details.calls]}


def call_json(call: ToolCall) -> Json:
    match call:
        case CodeInterpreterCall():
            outputs = outputs_json(call.outputs, call.result)
            return {
                "id": call.id,
                "type": "code_interpreter",
                "code_interpreter": {"input": call.input, "outputs": outputs},
            }
        case FunctionCall():
            function = {"name": call.name, "arguments": call.arguments_json, "output": call.output}
            return {"id": call.id, "type": "function", "function": function}


def outputs_json(items: Iterable[ExecutionItem], result: ExecutionResult | None) -> list[Json]:
    """What code put out, as the wire has it: logs and images, and the traceback of an error as logs."""
    outputs = [output for item in items if (output := output_json(item)) is not None]
    if (error := error_output(result)) is not None:
        outputs.append(error)
    return outputs


def output_json(item: ExecutionItem) -> Json | None:
    """One output; None for what the wire has no word for: a file, which the message names."""
    match item:
        case OutputItem():
            dropped = f"[{item.dropped_bytes} bytes left out]\n" if item.dropped_bytes else ""
            return {"type": "logs", "logs": dropped + item.text}
        case DisplayItem():
            forms = item.representations
            image = next((form for form in forms if form.file_id and form.media_type.startswith("image/")), None)
            if image is not None:
                return {"type": "image", "image": {"file_id": image.file_id}}
            plain = next((form.text for form in forms if form.media_type == "text/plain" and form.text), None)
            return None if plain is None else {"type": "logs", "logs": plain}
        case FileItem():
            return None


def error_output(result: ExecutionResult | None) -> Json | None:
    """How code failed, if it did."""
    if result is None or result.error is None:
        return None
    error = result.error
    return {"type": "logs", "logs": error.traceback or f"{error.name}: {error.value}"}


def run_fields(fields: Fields) -> tuple[RunFields, list[MessageFields]]:
    """The fields of a run to create and the messages to add before. Nothing is finished or raised."""
    given: dict[str, object] = {name: value for name in _STRINGS if (value := fields.string(name)) is not None}
    given.setdefault("assistant_id", "")
    for name in ("temperature", "top_p"):
        if (number := fields.number(name)) is not None:
            given[name] = number
    for name in ("max_prompt_tokens", "max_completion_tokens"):
        if (count := fields.integer(name)) is not None:
            given[name] = count
    if (parallel := fields.boolean("parallel_tool_calls")) is not None:
        given["parallel_tool_calls"] = parallel
    objects = {
        "tools": tools_value(fields),
        "truncation_strategy": truncation_value(fields),
        "tool_choice": tool_choice_value(fields),
    }
    given |= {name: value for name, value in objects.items() if value is not None}
    if fields.raw("response_format") is not None:
        given["response_format"] = response_format_value(fields)
    if fields.has("metadata"):
        given["metadata"] = fields.metadata()
    return cast(RunFields, given), messages_value(fields, "additional_messages")
