"""Run events and the deltas they carry."""

from afarensis import v1 as pb

from ...domain.events import (
    CodeInterpreterCallDelta,
    EventType,
    FunctionCallDelta,
    MessageContentDelta,
    MessageDelta,
    OutputDelta,
    RunEvent,
    RunStepDelta,
    ToolCallDelta,
)
from ...domain.executions import DisplayItem, FileItem, OutputItem
from ...domain.runs import Run, RunStep
from ...domain.threads import ImageFileContent, ImageUrlContent, Message, RefusalContent, TextContent, Thread
from .executions import display_message, file_change_message, output_message, result_message
from .runs import run_message, run_step_message
from .threads import annotation_message, image_file_message, image_url_message, message_message, thread_message
from .values import timestamp_message

# `thread.run.step.delta` is RUN_EVENT_TYPE_THREAD_RUN_STEP_DELTA.
EVENT_TYPES = {
    kind: pb.RunEventType.Value("RUN_EVENT_TYPE_" + kind.value.upper().replace(".", "_")) for kind in EventType
}


def run_event_message(event: RunEvent) -> pb.RunEvent:
    message = pb.RunEvent(
        sequence=event.sequence, create_time=timestamp_message(event.create_time), type=EVENT_TYPES[event.type]
    )
    match event.payload:
        case Thread() as thread:
            message.thread.CopyFrom(thread_message(thread))
        case Run() as run:
            message.run.CopyFrom(run_message(run))
        case RunStep() as step:
            message.run_step.CopyFrom(run_step_message(step))
        case RunStepDelta() as delta:
            message.run_step_delta.CopyFrom(_step_delta_message(delta))
        case Message() as value:
            message.message.CopyFrom(message_message(value))
        case MessageDelta() as delta:
            message.message_delta.CopyFrom(_message_delta_message(delta))
    return message


def _step_delta_message(delta: RunStepDelta) -> pb.RunStepDelta:
    return pb.RunStepDelta(run_step_id=delta.step_id, tool_calls=[_call_delta_message(call) for call in delta.calls])


def _call_delta_message(delta: ToolCallDelta) -> pb.ToolCallDelta:
    match delta:
        case CodeInterpreterCallDelta():
            code = pb.CodeInterpreterCallDelta(
                input=delta.input,
                outputs=[_output_delta_message(output) for output in delta.outputs],
                result=None if delta.result is None else result_message(delta.result),
                session_id=delta.session_id or "",
                execution_id=delta.execution_id or "",
                state_lost=delta.state_lost,
            )
            return pb.ToolCallDelta(index=delta.index, id=delta.id, code_interpreter=code)
        case FunctionCallDelta():
            function = pb.FunctionCallDelta(
                name=delta.name or "", arguments_json=delta.arguments_json, output=delta.output
            )
            return pb.ToolCallDelta(index=delta.index, id=delta.id, function=function)


def _output_delta_message(delta: OutputDelta) -> pb.CodeInterpreterOutputDelta:
    match delta.item:
        case OutputItem() as item:
            return pb.CodeInterpreterOutputDelta(index=delta.index, output=output_message(item))
        case DisplayItem() as item:
            return pb.CodeInterpreterOutputDelta(index=delta.index, display=display_message(item))
        case FileItem() as item:
            return pb.CodeInterpreterOutputDelta(index=delta.index, file=file_change_message(item))


def _message_delta_message(delta: MessageDelta) -> pb.MessageDelta:
    return pb.MessageDelta(
        message_id=delta.message_id, content=[_content_delta_message(part) for part in delta.content]
    )


def _content_delta_message(delta: MessageContentDelta) -> pb.MessageContentDelta:
    match delta.content:
        case TextContent() as text:
            # A part's annotations are found once its text is complete, and all come in one delta.
            annotations = [
                pb.AnnotationDelta(index=index, annotation=annotation_message(annotation))
                for index, annotation in enumerate(text.annotations)
            ]
            addition = pb.TextContentDelta(value=text.value, annotations=annotations)
            return pb.MessageContentDelta(index=delta.index, text=addition)
        case ImageFileContent() as image:
            return pb.MessageContentDelta(index=delta.index, image_file=image_file_message(image))
        case ImageUrlContent() as image:
            return pb.MessageContentDelta(index=delta.index, image_url=image_url_message(image))
        case RefusalContent() as refusal:
            return pb.MessageContentDelta(index=delta.index, refusal=pb.RefusalContent(value=refusal.refusal))
