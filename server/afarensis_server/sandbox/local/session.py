"""An open session: files that stay, and interpreters that come and go beside them."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

from ..driver import (
    CodeError,
    ExecutionEvent,
    ExecutionStatus,
    FileChange,
    FileChangeKind,
    InputFile,
    Result,
    SandboxUnavailable,
    SessionSpec,
)
from .cgroups import Usage
from .execution import Execution, Stop
from .files import Snapshot, compare, open_regular, take_snapshot
from .inputs import InputDirectory
from .interpreter import Interpreter
from .launcher import Launcher, Seat
from .settings import LocalSandboxSettings

_CHUNK = 256 * 1024
_GONE = "Its variables are gone; its files are still there."
#: Without a group for all of a session's memory, the limit of each process is all there is. With one, that limit only
#: has to turn a single huge request into a MemoryError, which keeps the state.
_ADDRESS_SPACE_FACTOR = 2


class LocalSession:
    """A session of the local driver; see ``SandboxSession``."""

    def __init__(
        self,
        launcher: Launcher,
        settings: LocalSandboxSettings,
        spec: SessionSpec,
        seat: Seat,
        volume: str,
        on_close: "Callable[[LocalSession], None]",
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._spec = spec
        self._seat = seat
        #: The name of its files' place.
        self.volume = volume
        self._on_close = on_close
        self._inputs = InputDirectory(
            settings.work_directory / "lower" / volume, shared=launcher.distinct_users
        )
        self._interpreter: Interpreter | None = None
        self._execution: Execution | None = None
        self._settling: asyncio.Task[None] | None = None
        self._upper = -1
        self._view = -1
        self._snapshot = Snapshot()
        self._numbers = itertools.count(1)
        self._closed = False

    @property
    def session_id(self) -> str:
        return self._spec.session_id

    async def start(self, interpreter: Interpreter) -> Self:
        """Lay out the files and wake the interpreter."""
        self._interpreter = interpreter
        limits = self._spec.limits
        await asyncio.to_thread(self._lay_out_inputs)
        tree, self._upper, self._view = await self._launcher.supervisor.request(
            "create_volume",
            name=self.volume,
            size_bytes=limits.disk_bytes,
            inodes=limits.disk_inodes,
            user=self._seat.user,
        )
        self._seat.cgroup.set_limits(limits)
        await self._wake(interpreter, tree)
        return self

    async def execute(self, code: str, *, timeout_seconds: float) -> AsyncIterator[ExecutionEvent]:
        """Run one cell; see ``SandboxSession``."""
        await self._settle()
        fresh = await self._replace_dead()
        assert self._interpreter is not None
        limits, grace = self._spec.limits, self._settings.grace_seconds
        self._seat.cgroup.reset_peak()
        before, cpu_before = self._seat.cgroup.usage(), self._interpreter.cpu_seconds()
        execution = Execution(
            self._interpreter, next(self._numbers), limits, timeout_seconds=timeout_seconds, grace_seconds=grace
        )
        self._execution = execution
        try:
            await execution.send(code)
            while not execution.over:
                for event in await execution.advance():
                    yield event
            for change in await self._take_changes():
                yield change
        finally:
            self._execution = None
            if not execution.over:
                self._settling = asyncio.create_task(execution.settle())
        usage = self._seat.cgroup.usage()
        cpu_seconds = self._interpreter.cpu_seconds() - cpu_before
        if usage.cpu_seconds is not None and before.cpu_seconds is not None:
            cpu_seconds = usage.cpu_seconds - before.cpu_seconds
        status, error = self._judge(execution, usage.oom_kills > before.oom_kills)
        yield Result(
            status=status,
            wall_seconds=execution.wall_seconds,
            cpu_seconds=cpu_seconds,
            peak_memory_bytes=self._peak(usage),
            dropped_bytes=execution.dropped_bytes,
            error=error,
            state_lost=fresh or execution.ending is not None,
        )

    async def interrupt(self) -> None:
        """Interrupt the running cell; see ``SandboxSession``."""
        if self._execution is not None:
            self._execution.stop(Stop.INTERRUPT)

    async def add_files(self, files: Sequence[InputFile]) -> None:
        """Make more input files visible; see ``SandboxSession``."""
        self._check_open()
        for name in await asyncio.to_thread(self._inputs.add, files):
            await self._launcher.supervisor.request("add_file", name=self.volume, file=name)
        await self._look()

    async def list_files(self) -> list[FileChange]:
        """All files that the session made or changed; see ``SandboxSession``."""
        self._check_open()
        now = await asyncio.to_thread(take_snapshot, self._upper)
        changes = compare(Snapshot(), now, self._inputs.files)
        return [change for change in changes if change.kind is not FileChangeKind.DELETED]

    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        """The content of a file; see ``SandboxSession``."""
        self._check_open()
        descriptor = open_regular(self._view, path)
        try:
            # No further than it reached at first: code may write to it faster than we read.
            left = os.fstat(descriptor).st_size
            while left and (chunk := await asyncio.to_thread(os.read, descriptor, min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """End the session; see ``SandboxSession``."""
        if self._closed:
            return
        self._closed = True
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.wait([self._settling])
        try:
            if self._interpreter is not None:
                await self._interpreter.end()
            await self._launcher.supervisor.request("remove_volume", name=self.volume)
        finally:
            for descriptor in (self._upper, self._view):
                if descriptor >= 0:
                    os.close(descriptor)
            await asyncio.to_thread(self._inputs.remove)
            self._launcher.release_seat(self._seat)
            self._on_close(self)

    def _lay_out_inputs(self) -> None:
        self._inputs.create()
        self._inputs.add(self._spec.files)

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxUnavailable("the session is closed")

    async def _wake(self, interpreter: Interpreter, tree: int) -> None:
        limits = self._spec.limits
        factor = _ADDRESS_SPACE_FACTOR if self._seat.cgroup.limits_memory else 1
        try:
            interpreter.activate(limits, factor * limits.memory_bytes, tree)
        finally:
            os.close(tree)
        await interpreter.wait_ready(self._settings.start_seconds)

    async def _settle(self) -> None:
        """Wait for code whose consumer went away."""
        self._check_open()
        if self._settling is not None:
            await asyncio.shield(self._settling)
            self._settling = None
            await self._look()

    async def _replace_dead(self) -> bool:
        """Have an interpreter that lives; whether it is a new one, and the state of the last one lost."""
        if self._interpreter is not None and self._interpreter.alive:
            return False
        if self._interpreter is not None:
            await self._interpreter.end()
            self._interpreter = None
        interpreter = await self._launcher.spawn(self._seat)
        try:
            (tree,) = await self._launcher.supervisor.request("clone_volume", name=self.volume)
            await self._wake(interpreter, tree)
        except BaseException:
            await interpreter.end()
            raise
        self._interpreter = interpreter
        return True

    async def _look(self) -> None:
        self._snapshot = await asyncio.to_thread(take_snapshot, self._upper)

    async def _take_changes(self) -> list[FileChange]:
        before = self._snapshot
        await self._look()
        return compare(before, self._snapshot, self._inputs.files)

    def _judge(self, execution: Execution, out_of_memory: bool) -> tuple[ExecutionStatus, CodeError | None]:
        memory = f"the session may use {self._spec.limits.memory_bytes // 2**20} MiB of memory"
        if execution.ending is not None:
            return self._judge_loss(execution, memory if out_of_memory else None)
        result = execution.result
        assert result is not None
        if execution.stopped is Stop.TIMEOUT:
            value = f"the code took longer than its time limit and was interrupted after {execution.wall_seconds:.1f} s"
            return ExecutionStatus.TIMEOUT, _error("TimeoutError", f"{value}. Its variables are still there.", result.error)
        if execution.stopped is Stop.INTERRUPT:
            return ExecutionStatus.INTERRUPTED, result.error or _error("KeyboardInterrupt", "")
        if result.status == "ok":
            return ExecutionStatus.OK, None
        if result.error is not None and result.error.name == "MemoryError":
            value = f"{memory}. Its variables are still there."
            return ExecutionStatus.OUT_OF_MEMORY, _error("MemoryError", value, result.error)
        return ExecutionStatus.ERROR, result.error

    def _judge_loss(self, execution: Execution, memory: str | None) -> tuple[ExecutionStatus, CodeError]:
        assert execution.ending is not None
        grace = f"did not end within {self._settings.grace_seconds:g} s of the interrupt and was killed"
        if memory is not None:
            return ExecutionStatus.OUT_OF_MEMORY, _error("MemoryError", f"{memory}, and needed more. {_GONE}")
        if execution.stopped is Stop.TIMEOUT:
            value = f"the code took longer than its time limit, {grace}. {_GONE}"
            return ExecutionStatus.TIMEOUT, _error("TimeoutError", value)
        if execution.stopped is Stop.INTERRUPT:
            return ExecutionStatus.INTERRUPTED, _error("KeyboardInterrupt", f"the code {grace}. {_GONE}")
        if execution.broken is not None:
            value = f"the interpreter sent what no interpreter sends ({execution.broken}) and was killed. {_GONE}"
        else:
            value = f"the interpreter {execution.ending.describe()}. {_GONE}"
        return ExecutionStatus.SESSION_LOST, _error("SessionLost", value)

    def _peak(self, usage: Usage) -> int:
        if usage.peak_memory_bytes is not None:
            return usage.peak_memory_bytes
        return self._interpreter.peak_memory_bytes() if self._interpreter is not None else 0


def _error(name: str, value: str, known: CodeError | None = None) -> CodeError:
    return CodeError(name=name, value=value, traceback=known.traceback if known is not None else "")
