"""What a session takes up, made before there is a session: a seat, room for files, an interpreter that waits in both.

An interpreter that waits is confined already, down to its last filter, and takes code at once. All that is left for the
one who opens a session is to say its limits and to link its files in.
"""

import asyncio
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress

from ..driver import InputFile, SandboxUnavailable, SessionLimits
from .inputs import InputDirectory
from .interpreter import Interpreter
from .launcher import Launcher, Seat
from .settings import LocalSandboxSettings


class Place:
    """A seat, a volume and the interpreter of the moment. The volume outlives the interpreter."""

    def __init__(self, launcher: Launcher, settings: LocalSandboxSettings, limits: SessionLimits) -> None:
        self._launcher = launcher
        self._settings = settings
        #: The limits of the volume stay these; all others are the session's.
        self.limits = limits
        #: The name of the volume.
        self.volume = secrets.token_hex(8)
        self.inputs = InputDirectory(settings.work_directory / "lower" / self.volume, shared=launcher.distinct_users)
        self._seat: Seat | None = None
        self._interpreter: Interpreter | None = None
        #: What the kernel had killed in the group, for want of memory, before the interpreter of the moment was in it.
        self._kills_before = 0
        #: Has an interpreter started, and goes on when nobody waits for it any more.
        self._spawning: asyncio.Task[None] | None = None
        #: Puts files in, in a thread that goes on when nobody waits for it any more.
        self._filling: asyncio.Task[list[str]] | None = None
        self._leaving: asyncio.Task[None] | None = None
        #: What the session changed, and all that it sees, as directories.
        self.upper = -1
        self.view = -1
        #: What the volume had left when it was made.
        self.free_inodes = -1

    @property
    def seat(self) -> Seat:
        """The user and the group."""
        assert self._seat is not None
        return self._seat

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter of the moment, alive or not."""
        assert self._interpreter is not None
        return self._interpreter

    @property
    def is_ready(self) -> bool:
        """Whether an interpreter waits for code, and has said nothing that nobody asked for."""
        return self._interpreter is not None and self._interpreter.is_silent

    def suits(self, limits: SessionLimits) -> bool:
        """Whether a session with these limits can have this place."""
        mine = self.limits
        return (mine.disk_bytes, mine.disk_inodes) == (limits.disk_bytes, limits.disk_inodes)

    def limit(self, limits: SessionLimits) -> None:
        """Bind it to the limits of a session. Before code runs, and once for each interpreter."""
        self.limits = limits
        try:
            self.seat.cgroup.set_limits(limits)
        except OSError as error:
            raise SandboxUnavailable(f"a session cannot be bound to its limits: {error}") from error
        self.interpreter.limit(limits, self.seat.cgroup)

    async def furnish(self, files: Sequence[InputFile] = (), *, ahead: bool = False) -> None:
        """Make it, with these files in it; ``ahead`` when nobody waits. Raises SandboxUnavailable: then leave it."""
        self._seat = seat = self._launcher.take_seat()
        # The fork takes longest, and the files can be laid out meanwhile.
        self._spawning = asyncio.create_task(self._spawn(seat), name="sandbox-spawn")
        tree = await self._lay_out(seat, files)
        try:
            seat.cgroup.set_limits(self.limits)
            await asyncio.shield(self._spawning)
        except BaseException:
            os.close(tree)
            raise
        await self._confine(self.interpreter, tree, ahead=ahead)

    async def show(self, files: Sequence[InputFile]) -> bool:
        """Put files in before any code runs; whether they are seen.

        The volume is mounted by then, and overlayfs promises nothing about files that come later. They are seen where
        nobody looked for them before.
        """
        return all(self._is_seen(name) for name in await self._fill(files))

    async def add_files(self, files: Sequence[InputFile]) -> None:
        """Put files in while the session lives; a name that exists is replaced. Raises SandboxUnavailable."""
        for name in await self._fill(files):
            await self._launcher.supervisor.request("add_file", name=self.volume, file=name)

    async def replace_interpreter(self) -> None:
        """Have a fresh interpreter beside the same files. Raises SandboxUnavailable."""
        if self._spawning is not None:
            await asyncio.wait({self._spawning})
        if self._interpreter is not None:
            await self._interpreter.end()
            self._interpreter = None
        if self._leaving is not None:
            raise SandboxUnavailable("the session is closed")
        self._kills_before = self.seat.cgroup.usage().oom_kills
        self._spawning = asyncio.create_task(self._spawn(self.seat), name="sandbox-spawn")
        await asyncio.shield(self._spawning)
        try:
            (tree,) = await self._launcher.supervisor.request("clone_volume", name=self.volume)
            await self._confine(self.interpreter, tree, ahead=False)
            self.limit(self.limits)
        except BaseException:
            # It never counts as alive: whoever wants another one, or leaves, waits for its end.
            self.interpreter.kill()
            raise

    def leaving(self) -> asyncio.Task[None]:
        """End the interpreter and let go of everything: the one task that does, whoever waits for it."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(), name="sandbox-leave")
            self._launcher.keep(self._leaving)
        return self._leaving

    async def leave(self) -> None:
        """End the interpreter and let go of everything. May be repeated; goes on when nobody waits for it any more."""
        await asyncio.shield(self.leaving())

    async def _leave(self) -> None:
        try:
            for task in (self._spawning, self._filling):
                if task is not None:
                    await asyncio.wait({task})
                    if not task.cancelled():
                        task.exception()  # who waited for it has met it, or another one before
            if self._interpreter is not None:
                await self._interpreter.end()
            with suppress(SandboxUnavailable):  # then the volumes went with the supervisor
                await self._launcher.supervisor.request("remove_volume", name=self.volume)
        finally:
            for descriptor in (self.upper, self.view):
                if descriptor >= 0:
                    os.close(descriptor)
            await asyncio.to_thread(self.inputs.remove)
            if self._seat is not None:
                self._launcher.release_seat(self._seat)

    async def _spawn(self, seat: Seat) -> None:
        self._interpreter = await self._launcher.spawn(seat)

    async def _lay_out(self, seat: Seat, files: Sequence[InputFile]) -> int:
        self.inputs.create()
        if files:
            await self._fill(files)
        tree, self.upper, self.view = await self._launcher.supervisor.request(
            "create_volume",
            name=self.volume,
            size_bytes=self.limits.disk_bytes,
            inodes=self.limits.disk_inodes,
            user=seat.user,
        )
        self.free_inodes = os.fstatvfs(self.upper).f_ffree
        return tree

    async def _fill(self, files: Sequence[InputFile]) -> list[str]:
        """Put files into the lower directory; the names that are new in it."""
        self._filling = asyncio.create_task(asyncio.to_thread(self.inputs.add, files), name="sandbox-fill")
        return await asyncio.shield(self._filling)

    def _is_seen(self, name: str) -> bool:
        wanted = (self.inputs.path / name).lstat()
        try:
            seen = os.stat(name, dir_fd=self.view, follow_symlinks=False)
        except OSError:
            return False
        return (seen.st_mode, seen.st_size, seen.st_mtime_ns) == (wanted.st_mode, wanted.st_size, wanted.st_mtime_ns)

    async def _confine(self, interpreter: Interpreter, tree: int, *, ahead: bool) -> None:
        """Have a fresh interpreter move in and confine itself."""
        try:
            try:
                interpreter.confine(self.limits, self.seat.cgroup, tree, ahead=ahead)
            finally:
                os.close(tree)
            await interpreter.wait_ready(self._settings.start_seconds)
        except SandboxUnavailable as error:
            if self.seat.cgroup.usage().oom_kills > self._kills_before:
                message = f"no interpreter starts within a session's limit of memory, {self.limits.memory_bytes} B"
                raise SandboxUnavailable(f"{message}: {error}") from error
            raise
