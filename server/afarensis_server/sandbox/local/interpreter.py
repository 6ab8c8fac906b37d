"""One interpreter as the server sees it: a process, a socket for frames, two pipes for output."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import time

from ..driver import SandboxUnavailable, SessionLimits
from ..guest.frames import FrameBuffer, encode
from ..observing.leftovers import threads_of
from ..shared.ending import Ending
from ..shared.frames import MAX_BODY, MAX_HEADER
from .cgroups import Cgroup
from .readiness import Watch, wait_readable

#: Seconds to wait for the zygote's word on how a process ended, once it has.
_REPORT_SECONDS = 5.0
#: How far the limits of a process lie above those of its control group, where it has one. The group's are to be met
#: first, since it tells what it refused. The limit of memory turns a single huge request into a MemoryError, which
#: keeps the state.
_GROUPED_FACTOR = 2
#: Bytes to look for the first frame in.
_READY_SIZE = 4096


class Interpreter:
    """A forked process, parked or at work. Owns its descriptors."""

    def __init__(self, name: str, user: int, pidfd: int, control: socket.socket, stdout: int, stderr: int) -> None:
        self.name = name
        #: Which of the driver's users it runs as.
        self.user = user
        self.pidfd = pidfd
        self.pid = _pid_of(pidfd)
        self.control = control
        self.frames = FrameBuffer(MAX_HEADER, MAX_BODY)
        self.stdout = stdout
        self.stderr = stderr
        #: Puts it into its control group. Nothing of a user's may run before that is done.
        self.attached: asyncio.Task[None] | None = None
        #: What is read while code runs: the output that the code has not closed, the frames, and the end. Kept from one
        #: execution to the next.
        self.open = {stdout, stderr, control.fileno(), pidfd}
        self._watch: Watch | None = None
        #: Its /tmp, once somebody asked for it.
        self._tmp = -1
        self._holders = 1
        self.is_killed = False
        #: What it had before it took code.
        self.own_threads: frozenset[str] = frozenset()
        #: The group whose limits bind it.
        self._cgroup: Cgroup | None = None
        self._end: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        control.setblocking(False)
        os.set_blocking(stdout, False)
        os.set_blocking(stderr, False)

    def report_end(self, ending: Ending) -> None:
        """Take the zygote's word for how it ended."""
        self._forget_temporary_files()
        if not self._ended.done():
            self._ended.set_result(ending)

    @property
    def alive(self) -> bool:
        """Whether the process still runs, asked of the kernel."""
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return not self.is_killed and not self._ended.done()

    @property
    def is_silent(self) -> bool:
        """Whether it runs, and nothing came that was not asked for, as it must be before a request."""
        if self.is_killed or self._ended.done() or not self.frames.is_empty:
            return False
        ready = self.watch.ready()
        return self.control.fileno() not in ready and self.pidfd not in ready

    async def ended(self) -> Ending:
        """How it ended. Call it when the pidfd says that it did."""
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                return await asyncio.shield(self._ended)
        except TimeoutError:
            return Ending(exit_code=-signal.SIGKILL, cpu_seconds=0.0)

    def signal(self, number: int) -> None:
        """Send a signal from outside; nothing happens to a process that is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """End it from outside, and all that it started; it does not count as alive any more."""
        self.is_killed = True
        self.signal(signal.SIGKILL)
        if self._cgroup is not None:
            self._cgroup.lift_cpu_limit()

    def cpu_seconds(self) -> float:
        """Processor time of the process so far, by its own clock in the kernel, without the children it started."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return self._ended.result().cpu_seconds if self._ended.done() else 0.0

    def confine(self, limits: SessionLimits, cgroup: Cgroup, tree: int, *, ahead: bool) -> None:
        """Have it move in with its files, whose mount is ``tree``, and give up all that it must not have.

        ``ahead``: nobody waits for it yet.
        """
        message = {
            "ahead": ahead,
            "memory_is_counted": cgroup.limits_memory,
            "disk_bytes": limits.disk_bytes,
            "disk_inodes": limits.disk_inodes,
        }
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], [tree])
        except OSError as error:
            raise SandboxUnavailable(f"a waiting interpreter {self._last_words() or 'ended without a word'}") from error

    def limit(self, limits: SessionLimits, cgroup: Cgroup) -> None:
        """Set the limits of its processes: its group sees to what it can, and what it cannot is met here."""
        self._cgroup = cgroup
        message = {
            "type": "limits",
            "memory_bytes": limits.memory_bytes * (_GROUPED_FACTOR if cgroup.limits_memory else 1),
            "memory_is_counted": cgroup.limits_memory,
            "processes": limits.processes * (_GROUPED_FACTOR if cgroup.limits_processes else 1),
            "open_files": limits.open_files,
            "file_bytes": limits.disk_bytes,
        }
        try:
            self.control.send(encode(message))
        except OSError as error:
            raise SandboxUnavailable(f"a waiting interpreter {self._last_words() or 'ended without a word'}") from error

    async def wait_ready(self, seconds: float) -> None:
        """Wait until it is in its control group, and for the guest's word that it takes requests."""
        ready = await wait_readable((self.control.fileno(), self.pidfd), seconds)
        data = b""
        if self.control.fileno() in ready:
            with contextlib.suppress(ConnectionError):  # it ended, with something that it had not read
                data = self.control.recv(_READY_SIZE)
        if [header for header, _ in self.frames.feed(data)] != [{"type": "ready"}]:
            raise SandboxUnavailable(f"a new interpreter {await self._how_it_failed() if ready else 'does not answer'}")
        self.own_threads = threads_of(self.pid)
        if self.attached is not None:
            try:
                await asyncio.shield(self.attached)
            except OSError as error:
                raise SandboxUnavailable(f"a new interpreter cannot be put into its control group: {error}") from error

    async def _how_it_failed(self) -> str:
        """What the process said, or else how it ended, which the kernel knows."""
        if said := self._last_words():
            return said
        if await wait_readable((self.pidfd,), _REPORT_SECONDS):
            return (await self.ended()).describe()
        return "does not speak like one"

    def _last_words(self) -> str | None:
        """What the process said on its way out, before it ran any user's code."""
        with contextlib.suppress(OSError):
            if text := os.read(self.stderr, 4096).decode(errors="replace").strip():
                return f"failed: {text}"
        return None

    async def end(self) -> None:
        """Kill it, if it still runs, wait until it is gone, and close what belongs to it. May be repeated."""
        if self._end is None:
            self._end = asyncio.create_task(self._finish(), name="sandbox-end")
        # Who waits may be cancelled; half an end would leave a process, or close the descriptors twice.
        await asyncio.shield(self._end)

    async def _finish(self) -> None:
        if self.attached is not None:
            await asyncio.wait([self.attached])
            if not self.attached.cancelled():
                self.attached.exception()  # taken note of: it does not matter any more
        self.signal(signal.SIGKILL)
        # The end of the first of a pid namespace: all that it started is gone, too. Of our own, since an execution may
        # wait for the same, and the loop knows one waiter for each descriptor.
        pidfd = os.dup(self.pidfd)
        try:
            await wait_readable((pidfd,), _REPORT_SECONDS)
        finally:
            os.close(pidfd)
            self.release()

    @property
    def watch(self) -> Watch:
        """Waits for what is ``open``."""
        if self._watch is None:
            self._watch = Watch(self.open)
        return self._watch

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no longer: what has ended can always be read."""
        if descriptor in self.open:
            self.open.discard(descriptor)
            self.watch.forget(descriptor)

    def hold(self) -> None:
        """Keep the descriptors open until ``release``, also when the process is ended in the meantime."""
        self._holders += 1

    def release(self) -> None:
        """Close the descriptors, once nobody holds them: their numbers would be other files then."""
        self._holders -= 1
        if self._holders == 0:
            if self._watch is not None:
                self._watch.close()
            self.control.close()
            self._forget_temporary_files()
            for descriptor in (self.pidfd, self.stdout, self.stderr):
                os.close(descriptor)
            self._ended.cancel()

    def temporary_files(self) -> os.statvfs_result | None:
        """What its /tmp has left; None where that cannot be told any more."""
        with contextlib.suppress(OSError):
            if self._tmp < 0:
                # No link leads astray: the root directory is read-only, and /tmp a mount in it.
                opened = os.open(f"/proc/{self.pid}/root/tmp", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                if not self.alive:  # then it may be that of a later process
                    os.close(opened)
                    return None
                self._tmp = opened
            return os.fstatvfs(self._tmp)
        return None

    def _forget_temporary_files(self) -> None:
        # As long as it is open, what lies in it takes memory.
        descriptor, self._tmp = self._tmp, -1
        if descriptor >= 0:
            os.close(descriptor)

    def peak_memory_bytes(self) -> int:
        """The most memory that the process had, with what it shares with its zygote."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/status") as status:  # noqa: PTH123 - not a file
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)
        return 0


def unread_bytes(descriptor: int) -> int:
    """Bytes that lie in a pipe."""
    buffer = bytearray(4)
    fcntl.ioctl(descriptor, 0x541B, buffer)  # FIONREAD
    return int.from_bytes(buffer, "little")


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as information:  # noqa: PTH123 - not a file
        return next(int(line.split()[1]) for line in information if line.startswith("Pid:"))
