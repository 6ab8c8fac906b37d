"""One interpreter: forked from the agent, which has everything imported, and confined before it runs code."""

import fcntl
import os
import select
import signal
import socket
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..guest.frames import FrameBuffer
from ..guest.limits import MAX_BODY, MAX_HEADER
from ..observing.leftovers import threads_of
from ..zygote import jail, landlock, privileges, seccomp, syscalls

_PR_SET_CHILD_SUBREAPER = 36
#: The number of its socket.
_CONTROL = 3
_FAILED = 70
#: Bytes to look for the first frame in, and of what is said of a failure.
_READY_SIZE = 4096


class FailedToStart(Exception):
    """No interpreter takes code; the message says why."""


class Interpreter:
    """A forked process, seen by the agent. Owns its descriptors."""

    def __init__(self, pid: int, control: socket.socket, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.control = control
        self.stdout = stdout
        self.stderr = stderr
        self.frames = FrameBuffer(MAX_HEADER, MAX_BODY)
        #: What is read while code runs: the output that the code has not closed, and the frames.
        self.open = {stdout, stderr, control.fileno()}
        #: How it ended, from the kernel: an exit status, or minus a signal. None: it has not.
        self.exit_code: int | None = None
        #: What it had before it took code.
        self.own_threads: frozenset[str] = frozenset()
        self._killed = False
        for descriptor in (control.fileno(), stdout, stderr):
            os.set_blocking(descriptor, False)

    @classmethod
    def fork(cls, runner: Any, data_directory: str, *, rehearse: bool) -> "Interpreter":
        """Fork one. Raises FailedToStart."""
        ours, theirs = socket.socketpair()
        stdout, stdout_end = os.pipe()
        stderr, stderr_end = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            for descriptor in (stdout, stdout_end, stderr, stderr_end):
                os.close(descriptor)
            ours.close()
            theirs.close()
            raise FailedToStart(f"no interpreter can be forked: {error}") from error
        if pid == 0:
            ours.detach()  # its number will be another file
            _be_born(runner, data_directory, (theirs.detach(), stdout_end, stderr_end), rehearse=rehearse)
        theirs.close()
        os.close(stdout_end)
        os.close(stderr_end)
        return cls(pid, ours, stdout, stderr)

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    @property
    def is_usable(self) -> bool:
        """Whether it takes a request."""
        return self.alive and not self._killed and self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether nothing came that was not asked for, as it must be before a request."""
        return self.frames.is_empty and unread_bytes(self.control.fileno()) == 0

    def wait_ready(self, seconds: float) -> None:
        """Wait for the guest's word that it takes requests. Raises FailedToStart."""
        waiting = select.poll()
        waiting.register(self.control, select.POLLIN)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not waiting.poll(left * 1000):
                break
            try:
                data = self.control.recv(_READY_SIZE)
            except OSError:
                data = b""
            frames = [header for header, _ in self.frames.feed(data)]
            if frames == [{"type": "ready"}]:
                self.own_threads = threads_of(self.pid)
                return
            if not data or frames:
                said = os.read(self.stderr, _READY_SIZE).decode(errors="replace").strip()
                raise FailedToStart(f"a new interpreter failed: {said or 'it said nothing'}")
        raise FailedToStart("a new interpreter does not answer")

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens to a process that is gone. Its number is nobody else's until it is reaped."""
        self._killed = self._killed or number == signal.SIGKILL
        if self.alive:
            os.kill(self.pid, number)

    def cpu_seconds(self) -> float:
        """Processor time so far, without the children that it started."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return 0.0

    def close(self) -> None:
        """Close its descriptors."""
        self.control.close()
        os.close(self.stdout)
        os.close(self.stderr)


def unread_bytes(descriptor: int) -> int:
    """Bytes that lie in a pipe."""
    buffer = bytearray(4)
    fcntl.ioctl(descriptor, 0x541B, buffer)  # FIONREAD
    return int.from_bytes(buffer, "little")


def _be_born(runner: Any, data_directory: str, descriptors: tuple[int, int, int], *, rehearse: bool) -> NoReturn:
    """Become an interpreter and serve. Never returns: the child's stack ends here."""
    try:
        _place(*descriptors)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Its own files in /proc are its own again. The agent's stay closed to it.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        # What the code leaves behind is its interpreter's, which ends with it.
        with suppress(OSError):  # gVisor has none; they are the agent's then
            syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        # When the container is out of memory, this goes, and never the agent.
        Path("/proc/self/oom_score_adj").write_text("1000")
        os.setsid()
        os.chdir(data_directory)
        rules = landlock.begin()
        runner.attach(socket.socket(fileno=_CONTROL))
        privileges.limit_core_files()
        if (threads := privileges.threads_alive()) != 1:
            # The filter is a thread's own.
            raise RuntimeError(f"{threads} threads run, where one must be confined")
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if rules is not None:
            landlock.confine(rules, jail.WRITABLE)
        if program := seccomp.PROGRAMS[True]:
            syscalls.install_filter(program)
    except BaseException:
        # Nothing of a user's has run yet.
        os.write(2, traceback.format_exc().encode())
        os._exit(_FAILED)
    runner.serve(privileges.limit_resources, rehearse=rehearse)
    os._exit(_FAILED)


def _place(control: int, stdout: int, stderr: int) -> None:
    """Put the descriptors at their numbers, and close all others: the agent's way to the server is among them."""
    null = os.open("/dev/null", os.O_RDONLY)
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 64) for one in (null, stdout, stderr, control)]
    for target, source in enumerate(high):
        os.dup2(source, target)
    syscalls.close_range(_CONTROL + 1, 0x7FFFFFFF)
    os.set_inheritable(_CONTROL, False)
