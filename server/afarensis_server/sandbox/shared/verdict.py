"""How an execution ended, in the words of the protocol: which limit was met, and what is left of the session."""

import errno
import math
from dataclasses import dataclass, replace

from ..driver import CodeError, ExceededLimit, ExecutionStatus, Result, SessionLimits
from ..guest.limits import MAX_REQUEST
from .execution import Execution, Stop

_MIB = 2**20
#: The share of a session's memory from which on it counts as used up.
_NEARLY = 0.9
#: How Python begins what it says of a full disk, and of a file as large as a file may be.
_DISK_FULL = (f"[Errno {errno.ENOSPC:d}]", f"[Errno {errno.EFBIG:d}]")
_KEPT = "The session's variables and files are still there."
_GONE = "The session's variables are gone; its files are still there."
_ALL_GONE = "The session's variables are gone, and so are the files that it made; its input files are there."


def closed(wall_seconds: float) -> Result:
    """The result of code whose session was closed."""
    error = CodeError(name="SessionClosed", value="the session was closed while the code ran", traceback="")
    return Result(ExecutionStatus.INTERRUPTED, wall_seconds, error=error, state_lost=True)


def too_long(request_bytes: int) -> Result:
    """The result of code that no interpreter takes."""
    value = f"the code takes {request_bytes} bytes, of {MAX_REQUEST} that it may; put data into files instead"
    return Result(ExecutionStatus.ERROR, 0.0, error=_error("ValueError", value))


@dataclass(frozen=True, slots=True)
class Spent:
    """What the host counted during one execution."""

    cpu_seconds: float
    peak_memory_bytes: int
    #: The kernel ended a process of the session since the session was out of memory.
    out_of_memory: bool
    #: Processes or threads that could not start since there were too many.
    refused_forks: int
    #: What was used up of the session's disks before it and after it: a limit's name, and a place.
    full_before: frozenset[str]
    full: frozenset[str]


class Verdict:
    """Puts together what the guest says, what the kernel says, and what we did ourselves; the guest counts least."""

    def __init__(
        self,
        execution: Execution,
        limits: SessionLimits,
        spent: Spent,
        *,
        timeout_seconds: float,
    ) -> None:
        self._execution = execution
        self._limits = limits
        self._spent = spent
        self._timeout_seconds = timeout_seconds

    def result(self, *, state_lost: bool) -> Result:
        """The result that the caller gets."""
        status, error = self._judge()
        execution = self._execution
        return Result(
            status=status,
            wall_seconds=execution.wall_seconds,
            cpu_seconds=self._spent.cpu_seconds,
            peak_memory_bytes=self._spent.peak_memory_bytes,
            dropped_bytes=execution.dropped_output_bytes + execution.dropped_display_bytes,
            error=error,
            state_lost=state_lost,
            exceeded_limits=self._exceeded(status),
        )

    def _judge(self) -> tuple[ExecutionStatus, CodeError | None]:
        execution, result = self._execution, self._execution.result
        if result is None:
            return self._judge_loss()
        if execution.stopped is Stop.TIMEOUT:
            value = f"{self._late()} and was interrupted. {_KEPT}"
            return ExecutionStatus.TIMEOUT, _error("TimeoutError", value, result.error)
        if execution.stopped is Stop.INTERRUPT:
            error = result.error or _error("KeyboardInterrupt", "")
            if execution.ending is not None:
                value = (
                    f"{error.value} Threads that the code had started went on, so its interpreter was killed. {_GONE}"
                )
                error = replace(error, value=value.strip())
            return ExecutionStatus.INTERRUPTED, error
        if result.error is None:
            return ExecutionStatus.OK, None
        if result.out_of_memory or (result.error.name.endswith("MemoryError") and self._was_memory_used_up()):
            return ExecutionStatus.OUT_OF_MEMORY, _error("MemoryError", f"{self._too_large()}. {_KEPT}", result.error)
        return ExecutionStatus.INTERRUPTED if result.status == "interrupted" else ExecutionStatus.ERROR, result.error

    def _judge_loss(self) -> tuple[ExecutionStatus, CodeError]:
        execution = self._execution
        gone = _ALL_GONE if execution.files_lost else _GONE
        killed = f"it did not end within {execution.grace_seconds:g} s of the interrupt, so its interpreter was killed"
        if self._spent.out_of_memory:
            value = f"{self._too_large()}, so the interpreter was killed. {gone}"
            return ExecutionStatus.OUT_OF_MEMORY, _error("MemoryError", value)
        if execution.stopped is Stop.TIMEOUT:
            return ExecutionStatus.TIMEOUT, _error("TimeoutError", f"{self._late()}; {killed}. {gone}")
        if execution.stopped is Stop.INTERRUPT:
            value = f"the code was interrupted; {killed}. {gone}"
            return ExecutionStatus.INTERRUPTED, _error("KeyboardInterrupt", value)
        if execution.lost is not None:
            return ExecutionStatus.SESSION_LOST, _error("SessionLost", f"{execution.lost}. {gone}")
        if execution.broken is not None:
            cause = f"sent what no interpreter sends ({execution.broken}), so it was killed"
        else:
            cause = execution.ending.describe() if execution.ending is not None else "ended"
        return ExecutionStatus.SESSION_LOST, _error("SessionLost", f"the interpreter {cause}. {gone}")

    def _late(self) -> str:
        return f"the code took longer than its time limit of {self._timeout_seconds:g} s"

    def _too_large(self) -> str:
        size = f"{self._limits.memory_bytes // _MIB} MiB"
        return f"the code needed more memory than the {size} that a session may use, its files included"

    def _was_memory_used_up(self) -> bool:
        spent = self._spent
        return spent.out_of_memory or spent.peak_memory_bytes >= _NEARLY * self._limits.memory_bytes

    def _says_disk_full(self) -> bool:
        result = self._execution.result
        value = result.error.value if result is not None and result.error is not None else ""
        return value.startswith(_DISK_FULL)

    def _exceeded(self, status: ExecutionStatus) -> tuple[ExceededLimit, ...]:
        limits, spent, execution = self._limits, self._spent, self._execution
        found = []
        if status is ExecutionStatus.TIMEOUT:
            allowed, used = (math.ceil(seconds * 1000) for seconds in (self._timeout_seconds, execution.wall_seconds))
            found.append(ExceededLimit("timeout", allowed, used))
        if status is ExecutionStatus.OUT_OF_MEMORY or spent.out_of_memory:
            found.append(ExceededLimit("memory_bytes", limits.memory_bytes))
        if spent.refused_forks:
            found.append(ExceededLimit("processes", limits.processes, limits.processes + spent.refused_forks))
        # A disk that was full before is named again only to code that says it met that.
        met = {name.split()[0] for name in (spent.full if self._says_disk_full() else spent.full - spent.full_before)}
        for name, limit in (("disk_bytes", limits.disk_bytes), ("disk_inodes", limits.disk_inodes)):
            if name in met:
                found.append(ExceededLimit(name, limit, limit))
        for name, limit, refused in (
            ("output_bytes", limits.output_bytes, execution.dropped_output_bytes),
            ("display_bytes", limits.display_bytes, execution.refused_display_bytes),
        ):
            if refused:
                found.append(ExceededLimit(name, limit, limit + refused))
        return tuple(found)


def _error(name: str, value: str, known: CodeError | None = None) -> CodeError:
    return CodeError(name=name, value=value, traceback=known.traceback if known is not None else "")
