"""What every sandbox driver offers, and the values that cross its boundary.

A *session* is one stateful Python interpreter with its own ``/mnt/data``. It outlives the code it runs, and its files
outlive its interpreter: when the interpreter dies, the next execution gets a fresh one beside the same files.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..domain.executions import CodeError, ExceededLimit, ExecutionStatus, FileChangeKind, OutputStream
from ..domain.sessions import SessionLimits

__all__ = [
    "DATA_DIRECTORY",
    "CodeError",
    "DataFile",
    "Display",
    "ExceededLimit",
    "ExecutionEvent",
    "ExecutionStatus",
    "FileChange",
    "FileChangeKind",
    "InputFile",
    "Layer",
    "Output",
    "OutputStream",
    "Representation",
    "Result",
    "SandboxDriver",
    "SandboxFull",
    "SandboxSession",
    "SandboxUnavailable",
    "SessionLimits",
    "SessionSpec",
]

#: Where a session sees its files.
DATA_DIRECTORY = "/mnt/data"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A host file that a session sees as its own under ``/mnt/data/<name>``, and as ``/mnt/data/<file_id>``."""

    #: Empty: it is not seen by its id.
    file_id: str
    #: Relative to /mnt/data, unique in the session. Directories come into being as needed, when a session is opened; a
    #: file that is added to an open session has none.
    name: str
    #: The host's read-only copy. The session never changes it.
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What it takes to open a session."""

    session_id: str
    limits: SessionLimits
    files: tuple[InputFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """Text that code wrote, in the order written: never a split code point, U+FFFD for bytes that are not UTF-8."""

    stream: OutputStream
    text: str
    #: Bytes left out right before this text, because a limit was reached.
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Representation:
    """One form of a displayed value; ``text`` for textual media types, ``data`` for the others."""

    media_type: str
    text: str | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Display:
    """All forms of one displayed value (Jupyter's mimebundle), richest first."""

    representations: tuple[Representation, ...]


@dataclass(frozen=True, slots=True)
class FileChange:
    """A regular file below /mnt/data that an execution left new, changed or deleted."""

    #: Relative to /mnt/data, with ``/`` between names: valid UTF-8, no control characters, no ``..``.
    path: str
    kind: FileChangeKind
    #: 0 for a deleted file.
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DataFile:
    """A regular file below /mnt/data as it is now."""

    #: As in FileChange.
    path: str
    size_bytes: int
    #: When its content was last changed, in nanoseconds since 1970, as the session says: code can set any value.
    modify_time_ns: int
    #: As it was given to the session.
    is_untouched: bool
    #: As it was when the last execution ended, or the last files were added.
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Result:
    """How an execution ended; always the last event of one."""

    status: ExecutionStatus
    wall_seconds: float
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    #: Bytes of output that were counted but not passed on.
    dropped_bytes: int = 0
    #: Set unless the status is OK. For TIMEOUT, OUT_OF_MEMORY and SESSION_LOST its ``value`` says what happened, which
    #: limit was met and what is left of the session, in words that a model can act on.
    error: CodeError | None = None
    #: The interpreter ended: its variables are gone, its files are not. The next execution gets a fresh one.
    state_lost: bool = False
    #: The limits that were met, by the names of SessionLimits, or ``timeout`` in milliseconds.
    exceeded_limits: tuple[ExceededLimit, ...] = ()


ExecutionEvent = Output | Display | FileChange | Result


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of isolation, as found on this host."""

    name: str
    active: bool
    #: Without an essential layer the server refuses to start, unless told otherwise.
    essential: bool
    #: What was seen; when the layer is missing, why and how to get it.
    detail: str


class SandboxSession(Protocol):
    """An open session. Not safe for two executions at a time: callers take turns."""

    @property
    def session_id(self) -> str: ...

    async def prepare(self) -> bool:
        """Have an interpreter that takes code at once; tells whether it is another one than the last code had.

        Waits for code whose reader went away, and replaces an interpreter that died. `execute` does this by itself; who
        must say that variables are gone before code runs asks first. Raises SandboxUnavailable.
        """
        ...

    def execute(self, code: str, *, timeout_seconds: float) -> AsyncGenerator[ExecutionEvent, None]:
        """Run one cell and yield its events as they happen; the last one is a Result.

        User code that fails is a Result, never an exception. Closing the iterator early (or cancelling the task that
        reads it) interrupts the code and leaves the session usable.
        """
        ...

    async def interrupt(self, *, within_seconds: float | None = None) -> None:
        """Interrupt the running cell, keeping the state where the code lets us. Nothing runs: nothing happens.

        With ``within_seconds`` the interpreter is killed if the cell has not ended by then, and nothing that the cell
        started outlives it: processes are killed, and where threads are left, so is the interpreter.
        """
        ...

    async def add_files(self, files: Sequence[InputFile]) -> None:
        """Make more input files visible; a name that exists is replaced."""
        ...

    async def list_files(self) -> list[DataFile]:
        """All regular files below /mnt/data, in the order of paths."""
        ...

    async def stat_file(self, path: str) -> DataFile:
        """One regular file below /mnt/data, without following links. OSError when there is none."""
        ...

    def read_file(
        self, path: str, offset_bytes: int = 0, limit_bytes: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of a file below /mnt/data in chunks, never following links. OSError when there is none.

        The whole of a file that takes next to nothing of the session's disk may be refused; a part of it is not.
        """
        ...

    async def close(self) -> None:
        """End the session, its processes and its files. May be repeated."""
        ...


class SandboxDriver(Protocol):
    """Opens sessions. An async context manager: leaving it ends every session it opened."""

    @property
    def name(self) -> str: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def open(self, spec: SessionSpec) -> SandboxSession:
        """Open a session. Raises SandboxFull at capacity and SandboxUnavailable when none can be opened."""
        ...

    async def layers(self) -> list[Layer]:
        """The layers of isolation that sessions of this driver get, tried for real."""
        ...


class SandboxFull(Exception):
    """Every place for a session is taken."""


class SandboxUnavailable(Exception):
    """No session can be opened; the message says why and what to do."""
