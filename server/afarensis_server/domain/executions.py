"""What code did, as stored in run steps and in events.

The sandbox reports in the values of `sandbox.driver`; these are the same facts once files have ids.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .files import File


@dataclass(frozen=True, slots=True)
class Started:
    """The first event of an execution. ``state_lost``: the variables of earlier executions are gone."""

    execution_id: str
    state_lost: bool = False


class OutputStream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class OutputItem:
    """Text that code printed."""

    stream: OutputStream
    text: str
    #: Bytes left out right before this text, because a limit was reached.
    dropped_bytes: int = 0
    type: Literal["output"] = "output"


@dataclass(frozen=True, slots=True)
class Representation:
    """One form of a displayed value: inline as ``text`` or ``data``, or kept as a file when it is large."""

    media_type: str
    text: str | None = None
    data: bytes | None = None
    file_id: str | None = None
    #: Of the file's content, so that a picture which was also saved is known for the same one.
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class DisplayItem:
    """All forms of one displayed value. An image is also kept as a file, named by a representation of its own."""

    representations: tuple[Representation, ...]
    type: Literal["display"] = "display"


class FileChangeKind(StrEnum):
    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class FileItem:
    """A file below /mnt/data that code created, changed or deleted.

    ``path`` is absolute. ``file`` is None for a deleted file, and for one that could not be kept.
    """

    path: str
    change: FileChangeKind
    file: File | None = None
    size_bytes: int = 0
    type: Literal["file"] = "file"


class ExecutionStatus(StrEnum):
    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    OUT_OF_MEMORY = "out_of_memory"
    SESSION_LOST = "session_lost"


@dataclass(frozen=True, slots=True)
class CodeError:
    """An exception of the user's code, with a traceback of the user's frames only."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class ExceededLimit:
    """A limit that an execution met, by its name in SessionLimits or OutputLimits, or ``timeout`` in milliseconds.

    ``used`` is how much was used or asked for; 0 where it is not known.
    """

    name: str
    limit: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How an execution ended."""

    status: ExecutionStatus
    wall_seconds: float
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    dropped_bytes: int = 0
    error: CodeError | None = None
    #: The interpreter ended: its variables are gone, its files are not.
    state_lost: bool = False
    exceeded_limits: tuple[ExceededLimit, ...] = ()

    def explained(self, reason: str) -> "ExecutionResult":
        """The result of code that was interrupted for a reason, with that before its own words."""
        if not reason or self.status is not ExecutionStatus.INTERRUPTED or self.error is None:
            return self
        value = self.error.value[:1].upper() + self.error.value[1:]
        return replace(self, error=replace(self.error, value=f"{reason} {value}".strip()))


#: What code put out, in order.
ExecutionItem = Annotated[OutputItem | DisplayItem | FileItem, Field(discriminator="type")]

#: What an execution streams: Started first, ExecutionResult last.
ExecutionEvent = Started | OutputItem | DisplayItem | FileItem | ExecutionResult


class ExecutionEventType(StrEnum):
    STARTED = "started"
    OUTPUT = "output"
    DISPLAY = "display"
    FILE = "file"
    RESULT = "result"


@dataclass(frozen=True, slots=True)
class LoggedExecutionEvent:
    """A stored event. ``sequence`` starts at 1 for each execution and has no gaps."""

    execution_id: str
    sequence: int
    create_time: datetime
    type: ExecutionEventType
    event: ExecutionEvent


@dataclass(frozen=True, slots=True)
class Execution:
    """One piece of code that a client runs in a session. What became of it is in its log."""

    id: str
    project: str
    create_time: datetime
    session_id: str
    code: str


def without_inline_files(item: ExecutionItem) -> ExecutionItem:
    """The same without the contents that are kept as files anyway."""
    if not isinstance(item, DisplayItem):
        return item
    return DisplayItem(
        tuple(form if form.file_id is None else replace(form, text=None, data=None) for form in item.representations)
    )


def continues(first: ExecutionItem, second: ExecutionItem) -> bool:
    """Whether text goes on in the same output. Where something was dropped between, that place must stay visible."""
    return (
        isinstance(first, OutputItem)
        and isinstance(second, OutputItem)
        and second.stream is first.stream
        and second.dropped_bytes == 0
    )


def merge_outputs(first: ExecutionItem, second: ExecutionItem, limit: int) -> OutputItem | None:
    """Both as one output of at most ``limit`` characters; None where that is not possible."""
    if not isinstance(first, OutputItem) or not isinstance(second, OutputItem) or not continues(first, second):
        return None
    if len(first.text) + len(second.text) > limit:
        return None
    return replace(first, text=first.text + second.text)


def join_outputs(items: Iterable[ExecutionItem]) -> tuple[ExecutionItem, ...]:
    """The items with neighboring texts of one stream as one."""
    joined: list[ExecutionItem] = []
    pieces: list[str] = []
    for item in items:
        if joined and isinstance(item, OutputItem) and continues(joined[-1], item):
            pieces.append(item.text)
            continue
        _close(joined, pieces)
        joined.append(item)
    _close(joined, pieces)
    return tuple(joined)


def _close(joined: list[ExecutionItem], pieces: list[str]) -> None:
    if pieces and isinstance(last := joined[-1], OutputItem):
        joined[-1] = replace(last, text=last.text + "".join(pieces))
    pieces.clear()
