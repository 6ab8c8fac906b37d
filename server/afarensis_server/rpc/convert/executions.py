"""What code did: outputs, displays, files and results."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from afarensis import v1 as pb

from ...domain.executions import (
    CodeError,
    DisplayItem,
    ExecutionItem,
    ExecutionResult,
    ExecutionStatus,
    FileChangeKind,
    FileItem,
    LoggedExecutionEvent,
    OutputItem,
    OutputStream,
    Representation,
    Started,
    without_inline_files,
)
from ...sessions.executions import ExecutionState
from .files import file_message
from .values import duration_message, enum_numbers, timestamp_message

#: What cutting adds to a message, and more.
_ROOM_BYTES = 100

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


def execution_event_message(logged: LoggedExecutionEvent) -> pb.ExecutionEvent:
    sequence, time = logged.sequence, timestamp_message(logged.create_time)
    match logged.event:
        case OutputItem() as item:
            return pb.ExecutionEvent(sequence=sequence, create_time=time, output=output_message(item))
        case Started() as started:
            begun = pb.ExecutionStarted(execution_id=started.execution_id, state_lost=started.state_lost)
            return pb.ExecutionEvent(sequence=sequence, create_time=time, started=begun)
        case DisplayItem() as item:
            return pb.ExecutionEvent(sequence=sequence, create_time=time, display=display_message(item))
        case FileItem() as item:
            return pb.ExecutionEvent(sequence=sequence, create_time=time, file=file_change_message(item))
        case ExecutionResult() as result:
            return pb.ExecutionEvent(sequence=sequence, create_time=time, result=result_message(result))


def execution_message(state: ExecutionState, most_bytes: int) -> pb.Execution:
    """The execution. What would make it too large for one message is left out: see `Execution` in the contract."""
    message = _execution_message(state, state.outputs)
    if message.ByteSize() > most_bytes:
        message = _execution_message(state, [without_inline_files(item) for item in state.outputs])
    room = most_bytes - message.ByteSize()
    if room < 0:
        texts = sum(len(item.text.encode()) for item in state.outputs if isinstance(item, OutputItem))
        kept = _cut_middle(map(without_inline_files, state.outputs), max(texts + room - _ROOM_BYTES, 0))
        message = _execution_message(state, kept)
    return message


def _execution_message(state: ExecutionState, outputs: Iterable[ExecutionItem]) -> pb.Execution:
    return pb.Execution(
        id=state.execution.id,
        create_time=timestamp_message(state.execution.create_time),
        session_id=state.execution.session_id,
        code=state.execution.code,
        outputs=[code_output_message(item) for item in outputs],
        result=None if state.result is None else result_message(state.result),
        state_lost=state.state_lost,
    )


def _cut_middle(items: Iterable[ExecutionItem], most_bytes: int) -> Iterator[ExecutionItem]:
    """The items with no more text than this: its beginning and its end. What is left out is counted behind it."""
    items = list(items)
    sizes = [len(item.text.encode()) if isinstance(item, OutputItem) else 0 for item in items]
    first, last = most_bytes // 2, sum(sizes) - most_bytes // 2
    position = left_out = 0
    for item, size in zip(items, sizes, strict=True):
        begin, end = position, position + size
        position = end
        if not isinstance(item, OutputItem) or end <= first:
            yield item
            continue
        raw = item.text.encode()
        if begin < first:
            yield replace(item, text=raw[: first - begin].decode(errors="ignore"))
        else:
            left_out += item.dropped_bytes
        left_out += max(min(end, last) - max(begin, first), 0)
        if end > last:
            yield replace(item, text=raw[max(last - begin, 0) :].decode(errors="ignore"), dropped_bytes=left_out)
            left_out = 0
