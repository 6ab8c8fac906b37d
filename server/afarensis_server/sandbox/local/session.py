"""An open session: files that stay, and interpreters that come and go beside them."""

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Self

from ..driver import (
    DataFile,
    ExecutionEvent,
    FileChange,
    InputFile,
    SandboxUnavailable,
    SessionSpec,
)
from .cgroups import Usage
from .execution import CodeTooLongError, Execution, Stop, encode_request
from .files import Snapshot, compare, is_sparse, list_data, open_regular, stat_data, take_snapshot
from .inputs import InputDirectory
from .interpreter import Interpreter
from .launcher import Launcher, Seat
from .settings import LocalSandboxSettings
from .verdict import Spent, Verdict, closed, too_long

_CHUNK = 256 * 1024


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
        self._inputs = InputDirectory(settings.work_directory / "lower" / volume, shared=launcher.distinct_users)
        self._interpreter: Interpreter | None = None
        self._execution: Execution | None = None
        self._settling: asyncio.Task[None] | None = None
        self._upper = -1
        self._view = -1
        #: What the volume had left when it was made.
        self._free_inodes = -1
        self._snapshot = Snapshot()
        #: The last execution said that its interpreter ended.
        self._loss_told = False
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
        self._free_inodes = os.fstatvfs(self._upper).f_ffree
        self._seat.cgroup.set_limits(limits)
        await self._wake(interpreter, tree)
        return self

    async def prepare(self) -> bool:
        """Have an interpreter that takes code at once; see ``SandboxSession``."""
        await self._settle()
        return await self._replace_dead()

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
        assert self._interpreter is not None
        limits, grace = self._spec.limits, self._settings.grace_seconds
        self._seat.cgroup.reset_peak()
        full_before = self._full_disks()
        before, cpu_before = self._seat.cgroup.usage(), self._interpreter.cpu_seconds()
        execution = Execution(self._interpreter, number, limits, timeout_seconds=timeout_seconds, grace_seconds=grace)
        self._execution = execution
        try:
            await execution.send(request)
            while not execution.over:
                for event in await execution.advance():
                    yield event
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
        usage = self._seat.cgroup.usage()
        cpu_seconds = self._interpreter.cpu_seconds() - cpu_before
        if usage.cpu_seconds is not None and before.cpu_seconds is not None:
            cpu_seconds = usage.cpu_seconds - before.cpu_seconds
        spent = Spent(
            cpu_seconds=cpu_seconds,
            peak_memory_bytes=self._peak(usage),
            out_of_memory=usage.oom_kills > before.oom_kills,
            refused_forks=usage.fork_refusals - before.fork_refusals,
            full_before=full_before,
            full=self._full_disks(),
        )
        verdict = Verdict(execution, limits, spent, timeout_seconds=timeout_seconds, grace_seconds=grace)
        yield verdict.result(state_lost=lost_before or execution.ending is not None)

    async def interrupt(self) -> None:
        """Interrupt the running cell; see ``SandboxSession``."""
        if self._execution is not None:
            self._execution.stop(Stop.INTERRUPT)

    async def add_files(self, files: Sequence[InputFile]) -> None:
        """Make more input files visible; see ``SandboxSession``."""
        self._check_open()
        for name in await asyncio.to_thread(self._inputs.add, files):
            await self._launcher.supervisor.request("add_file", name=self.volume, file=name)
        self._snapshot = await self._look()

    async def list_files(self) -> list[DataFile]:
        """All files below /mnt/data; see ``SandboxSession``."""
        self._check_open()
        # Of its own: the session may be closed while the thread looks.
        view, upper = os.dup(self._view), os.dup(self._upper)
        try:
            return await asyncio.to_thread(list_data, view, upper, self._snapshot, tuple(self._inputs.files))
        finally:
            os.close(view)
            os.close(upper)

    async def stat_file(self, path: str) -> DataFile:
        """One file below /mnt/data; see ``SandboxSession``."""
        self._check_open()
        return stat_data(self._view, self._upper, path, self._snapshot)

    async def read_file(
        self, path: str, offset_bytes: int = 0, limit_bytes: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of a file; see ``SandboxSession``."""
        self._check_open()
        try:
            descriptor = open_regular(self._view, path)
        except BlockingIOError:
            # Under a lease, which the kernel now ends: the next execution tells of the file again.
            self._snapshot = self._snapshot.unseen(path)
            raise
        try:
            if is_sparse(self._upper, path):
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
            with suppress(SandboxUnavailable):  # then the volumes went with the supervisor
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
        try:
            interpreter.activate(self._spec.limits, self._seat.cgroup, tree)
        finally:
            os.close(tree)
        await interpreter.wait_ready(self._settings.start_seconds)

    async def _settle(self) -> None:
        """Wait for code whose consumer went away."""
        self._check_open()
        if self._settling is not None:
            await asyncio.shield(self._settling)
            self._settling = None
            self._snapshot = await self._look()

    async def _replace_dead(self) -> bool:
        """Have an interpreter that lives; whether it is another one than before."""
        if self._interpreter is not None and self._interpreter.alive and self._interpreter.is_silent:
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

    async def _look(self) -> Snapshot:
        if self._closed:
            return self._snapshot
        if os.fstatvfs(self._upper).f_ffree == self._free_inodes:
            # No file, no directory, no mark of a deletion: each would take an inode. Most calls leave none, and a
            # thread would cost more than they do.
            return Snapshot()
        # Of its own: the session may be closed while the thread looks.
        upper, view = os.dup(self._upper), os.dup(self._view)
        nested = [path for path in self._inputs.files if "/" in path]
        try:
            return await asyncio.to_thread(take_snapshot, upper, self._snapshot, view=view, nested=nested)
        finally:
            os.close(upper)
            os.close(view)

    async def _take_changes(self) -> list[FileChange]:
        before, self._snapshot = self._snapshot, await self._look()
        return compare(before, self._snapshot, self._inputs.files)

    def _full_disks(self) -> frozenset[str]:
        """What is used up of /mnt/data and /tmp, by the name of the limit and the place."""
        states = {"data": os.fstatvfs(self._upper)}
        if self._interpreter is not None and self._interpreter.alive:
            # No link leads astray: the root directory is read-only, and /tmp a mount in it.
            with suppress(OSError):
                states["tmp"] = os.statvfs(f"/proc/{self._interpreter.pid}/root/tmp")
        counts = [
            (name, place, left)
            for place, state in states.items()
            for name, left in (("disk_bytes", state.f_bfree), ("disk_inodes", state.f_ffree))
        ]
        return frozenset(f"{name} {place}" for name, place, left in counts if left == 0)

    def _peak(self, usage: Usage) -> int:
        if usage.peak_memory_bytes is not None:
            return usage.peak_memory_bytes
        return self._interpreter.peak_memory_bytes() if self._interpreter is not None else 0
