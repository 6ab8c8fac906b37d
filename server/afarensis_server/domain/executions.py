"""What code did, as stored in run steps and in events.

The sandbox reports in the values of `sandbox.driver`; these are the same facts once files have ids.
"""

from dataclasses import dataclass
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
    """A limit that an execution met, by its name in SessionLimits, or ``timeout`` in milliseconds.

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


#: What code put out, in order.
ExecutionItem = Annotated[OutputItem | DisplayItem | FileItem, Field(discriminator="type")]

#: What an execution streams: Started first, ExecutionResult last.
ExecutionEvent = Started | OutputItem | DisplayItem | FileItem | ExecutionResult
