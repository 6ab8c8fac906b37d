"""What code did, as stored in run steps and in events.

The sandbox reports in the values of `sandbox.driver`; these are the same facts once files have ids.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field


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
    """All forms of one displayed value. An image is also kept as a file, which every form of it then names."""

    representations: tuple[Representation, ...]
    type: Literal["display"] = "display"


class FileChangeKind(StrEnum):
    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class FileItem:
    """A file below /mnt/data that code created, changed or deleted; ``file_id`` is None for a deleted one.

    ``problem`` says why a file that exists could not be kept (too large, unreadable); then there is no id either.
    """

    path: str
    change: FileChangeKind
    file_id: str | None = None
    size_bytes: int = 0
    problem: str | None = None
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
class ResultItem:
    """How an execution ended; the last item of every finished one."""

    status: ExecutionStatus
    wall_seconds: float
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    dropped_bytes: int = 0
    error: CodeError | None = None
    #: Variables are gone, files are not.
    state_lost: bool = False
    type: Literal["result"] = "result"


ExecutionItem = Annotated[OutputItem | DisplayItem | FileItem | ResultItem, Field(discriminator="type")]
