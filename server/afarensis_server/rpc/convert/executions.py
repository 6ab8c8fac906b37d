"""What code did: outputs, displays, files and results."""

from afarensis import v1 as pb

from ...domain.executions import (
    CodeError,
    DisplayItem,
    ExecutionEvent,
    ExecutionItem,
    ExecutionResult,
    ExecutionStatus,
    FileChangeKind,
    FileItem,
    OutputItem,
    OutputStream,
    Representation,
    Started,
)
from .files import file_message
from .values import duration_message, enum_numbers

_STREAMS = enum_numbers(pb.OutputStream, "OUTPUT_STREAM_", OutputStream)
_CHANGES = enum_numbers(pb.FileChange, "FILE_CHANGE_", FileChangeKind)
_STATUSES = enum_numbers(pb.ExecutionStatus, "EXECUTION_STATUS_", ExecutionStatus)


def output_message(item: OutputItem) -> pb.ExecutionOutput:
    return pb.ExecutionOutput(stream=_STREAMS[item.stream], text=item.text, dropped_bytes=item.dropped_bytes)


def display_message(item: DisplayItem) -> pb.ExecutionDisplay:
    return pb.ExecutionDisplay(representations=[_representation_message(form) for form in item.representations])


def _representation_message(form: Representation) -> pb.Representation:
    message = pb.Representation(media_type=form.media_type, file_id=form.file_id or "")
    if form.text is not None:
        message.text = form.text
    elif form.data is not None:
        message.data = form.data
    return message


def file_change_message(item: FileItem) -> pb.ExecutionFile:
    return pb.ExecutionFile(
        path=item.path,
        change=_CHANGES[item.change],
        file=None if item.file is None else file_message(item.file),
        size_bytes=item.size_bytes,
    )


def code_output_message(item: ExecutionItem) -> pb.CodeInterpreterOutput:
    match item:
        case OutputItem():
            return pb.CodeInterpreterOutput(output=output_message(item))
        case DisplayItem():
            return pb.CodeInterpreterOutput(display=display_message(item))
        case FileItem():
            return pb.CodeInterpreterOutput(file=file_change_message(item))


def result_message(result: ExecutionResult) -> pb.ExecutionResult:
    error = result.error
    return pb.ExecutionResult(
        status=_STATUSES[result.status],
        error=None if error is None else _error_message(error),
        wall_duration=duration_message(result.wall_seconds),
        cpu_duration=duration_message(result.cpu_seconds),
        peak_memory_bytes=result.peak_memory_bytes,
        dropped_bytes=result.dropped_bytes,
        state_lost=result.state_lost,
        exceeded_limits=[
            pb.ExceededLimit(name=limit.name, limit=limit.limit, used=limit.used) for limit in result.exceeded_limits
        ],
    )


def _error_message(error: CodeError) -> pb.ExecutionError:
    return pb.ExecutionError(name=error.name, value=error.value, traceback=error.traceback)


def execution_event_message(event: ExecutionEvent) -> pb.ExecutionEvent:
    """The event without its sequence and time, which the caller knows."""
    match event:
        case Started():
            started = pb.ExecutionStarted(execution_id=event.execution_id, state_lost=event.state_lost)
            return pb.ExecutionEvent(started=started)
        case OutputItem():
            return pb.ExecutionEvent(output=output_message(event))
        case DisplayItem():
            return pb.ExecutionEvent(display=display_message(event))
        case FileItem():
            return pb.ExecutionEvent(file=file_change_message(event))
        case ExecutionResult():
            return pb.ExecutionEvent(result=result_message(event))
