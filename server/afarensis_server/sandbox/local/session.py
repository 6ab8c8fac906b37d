"""An open session: files that stay, and interpreters that come and go beside them."""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from ..driver import (
    DataFile,
    ExecutionEvent,
    FileChange,
    InputFile,
    SessionSpec,
)
from ..observing.files import Snapshot, is_sparse, open_regular, take_snapshot
from ..observing.lookout import Lookout
from ..shared.changes import compare
from ..shared.execution import CodeTooLongError, Stop, encode_request
from ..shared.session import ClosableSession
from ..shared.verdict import Spent, Verdict, closed, too_long
from .cgroups import Cgroup, Usage
from .execution import Execution
from .files import list_data, stat_data
from .interpreter import Interpreter
from .place import Place
from .settings import LocalSandboxSettings

_CHUNK = 256 * 1024
_NONE: frozenset[str] = frozenset()
_NO_FILES = Snapshot()


class LocalSession(ClosableSession):
    """A session of the local driver; see ``SandboxSession``."""

    def __init__(
        self,
        place: Place,
        settings: LocalSandboxSettings,
        spec: SessionSpec,
        on_close: "Callable[[LocalSession], None]",
    ) -> None:
        super().__init__()
        #: Where it lives: ready to take code, bound to the session's limits, with its files in it.
        self.place = place
        self._settings = settings
        self._spec = spec
        self._on_close = on_close
        self._execution: Execution | None = None
        self._snapshot = _NO_FILES
        #: What the session had used, and which of its disks were full, when the last execution was over. What processes
        #: in the background meet between two executions is told with the second.
        self._usage = Usage()
        self._full: frozenset[str] = frozenset()
        #: The last execution said that its interpreter ended.
        self._loss_told = False

    @property
    def session_id(self) -> str:
        return self._spec.session_id

    async def prepare(self) -> bool:
        """Have an interpreter that takes code at once; see ``SandboxSession``."""
        if self._closed or self._settling is not None:
            await self._settle()
        return not self.place.is_ready and await self._replace_dead()

    async def execute(self, code: str, *, timeout_seconds: float) -> AsyncGenerator[ExecutionEvent, None]:
        """Run one cell; see ``SandboxSession``."""
        number = secrets.randbits(62)
        try:
            request = encode_request(number, code)
        except CodeTooLongError as error:
            yield too_long(*error.args)
            return
        lost_before = await self.prepare() and not self._loss_told
        self._loss_told = False
        interpreter, cgroup = self.place.interpreter, self.place.seat.cgroup
        limits, grace = self._spec.limits, self._settings.grace_seconds
        execution = Execution(interpreter, number, limits, timeout_seconds=timeout_seconds, grace_seconds=grace)
        self._execution = execution
        try:
            await execution.send(request)
            # While the interpreter wakes: the code has had no time yet to use anything.
            cgroup.reset_peak()
            processor = _ProcessorTime(cgroup, interpreter)
            lookout = Lookout()
            while not execution.over:
                for event in await execution.advance(lookout.due_in()):
                    yield event
                if lookout.due_in() == 0.0 and not execution.over:
                    for change in await self._find_finished(lookout):
                        yield change
            if execution.is_hard:
                await execution.end_leftovers()
            for change in await self._take_changes():
                yield change
        finally:
            self._execution = None
            if execution.over or self._closed:
                execution.close()
            else:
                self._settling = asyncio.create_task(execution.settle())
        if self._closed:
            yield closed(execution.elapsed_seconds)
            return
        self._loss_told = execution.ending is not None
        before, self._usage = self._usage, cgroup.usage()
        full_before, self._full = self._full, self._full_disks(alive=execution.ending is None)
        usage = self._usage
        spent = Spent(
            cpu_seconds=processor.used(usage),
            peak_memory_bytes=self._peak(usage),
            out_of_memory=usage.oom_kills > before.oom_kills,
            refused_forks=usage.fork_refusals - before.fork_refusals,
            full_before=full_before,
            full=self._full,
        )
        verdict = Verdict(execution, limits, spent, timeout_seconds=timeout_seconds)
        yield verdict.result(state_lost=lost_before or execution.ending is not None)

    async def interrupt(self, *, within_seconds: float | None = None) -> None:
        """Interrupt the running cell; see ``SandboxSession``."""
        if self._execution is not None:
            self._execution.stop(Stop.INTERRUPT, within_seconds)

    async def add_files(self, files: Sequence[InputFile]) -> None:
        """Make more input files visible; see ``SandboxSession``."""
        self._check_open()
        await self.place.add_files(files)
        self._snapshot = await self._look()

    async def list_files(self) -> list[DataFile]:
        """All files below /mnt/data; see ``SandboxSession``."""
        self._check_open()
        # Of its own: the session may be closed while the thread looks.
        view, upper = os.dup(self.place.view), os.dup(self.place.upper)
        try:
            return await asyncio.to_thread(list_data, view, upper, self._snapshot, tuple(self.place.inputs.files))
        finally:
            os.close(view)
            os.close(upper)

    async def stat_file(self, path: str) -> DataFile:
        """One file below /mnt/data; see ``SandboxSession``."""
        self._check_open()
        return stat_data(self.place.view, self.place.upper, path, self._snapshot)

    async def read_file(
        self, path: str, offset_bytes: int = 0, limit_bytes: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of a file; see ``SandboxSession``."""
        self._check_open()
        try:
            descriptor = open_regular(self.place.view, path)
        except BlockingIOError:
            # Under a lease, which the kernel now ends: the next execution tells of the file again.
            self._snapshot = self._snapshot.unseen(path)
            raise
        try:
            if is_sparse(self.place.upper, path):
                raise OSError(errno.EFBIG, "a file that is mostly holes")
            # No further than it reached at first: code may write to it faster than we read.
            left = os.fstat(descriptor).st_size - offset_bytes
            if limit_bytes is not None:
                left = min(left, limit_bytes)
            if offset_bytes:
                os.lseek(descriptor, offset_bytes, os.SEEK_SET)
            while left > 0 and (chunk := await asyncio.to_thread(os.read, descriptor, min(left, _CHUNK))):
                left -= len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def _leave(self) -> None:
        try:
            await self.place.leave()
        finally:
            self._on_close(self)

    async def _replace_dead(self) -> bool:
        """Have an interpreter that lives in place of one that is dead."""
        await self.place.replace_interpreter()
        self._check_open()
        return True

    async def _look(self) -> Snapshot:
        if self._closed:
            return self._snapshot
        if os.fstatvfs(self.place.upper).f_ffree == self.place.free_inodes:
            # No file, no directory, no mark of a deletion: each would take an inode. Most calls leave none, and a
            # thread would cost more than they do.
            return _NO_FILES
        # Of its own: the session may be closed while the thread looks.
        upper, view = os.dup(self.place.upper), os.dup(self.place.view)
        nested = [path for path in self.place.inputs.files if "/" in path]
        try:
            return await asyncio.to_thread(take_snapshot, upper, self._snapshot, view=view, nested=nested)
        finally:
            os.close(upper)
            os.close(view)

    async def _find_finished(self, lookout: Lookout) -> list[FileChange]:
        """The files that code which still runs has finished."""
        state = os.fstatvfs(self.place.upper)
        if self._closed or not lookout.is_worth(state.f_bfree, state.f_ffree):
            return []
        began = time.monotonic()
        now = await self._look()
        before, self._snapshot = self._snapshot, lookout.finished(self._snapshot, now, time.monotonic() - began)
        return compare(before, self._snapshot, self.place.inputs.files)

    async def _take_changes(self) -> list[FileChange]:
        before, self._snapshot = self._snapshot, await self._look()
        return [] if self._snapshot is before else compare(before, self._snapshot, self.place.inputs.files)

    def _full_disks(self, *, alive: bool) -> frozenset[str]:
        """What is used up of /mnt/data and /tmp, by the name of the limit and the place."""
        states = {"data": os.fstatvfs(self.place.upper)}
        # With its interpreter, /tmp has gone.
        if alive and (state := self.place.interpreter.temporary_files()) is not None:
            states["tmp"] = state
        full: list[str] = []
        for place, state in states.items():
            if not state.f_bfree:
                full.append(f"disk_bytes {place}")
            if not state.f_ffree:
                full.append(f"disk_inodes {place}")
        return frozenset(full) if full else _NONE

    def _peak(self, usage: Usage) -> int:
        if usage.peak_memory_bytes is not None:
            return usage.peak_memory_bytes
        return self.place.interpreter.peak_memory_bytes()


class _ProcessorTime:
    """What one execution takes: of the whole session, or of its interpreter alone where nobody counts that."""

    def __init__(self, cgroup: Cgroup, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._before = cgroup.cpu_seconds()
        self._own_before = interpreter.cpu_seconds() if self._before is None else 0.0

    def used(self, usage: Usage) -> float:
        """The seconds since then, by the counters of now."""
        if self._before is None:
            return max(0.0, self._interpreter.cpu_seconds() - self._own_before)
        return max(0.0, (usage.cpu_seconds or 0.0) - self._before)
