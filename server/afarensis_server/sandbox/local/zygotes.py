"""The supervisor and its zygotes, from the server's side."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ..driver import SandboxUnavailable
from ..shared.ending import Ending
from .interpreter import Interpreter
from .peer import Peer
from .settings import LocalSandboxSettings

_log = logging.getLogger(__name__)

_HERE = Path(__file__).parents[1]
_GUEST_CODE = _HERE / "guest"
#: Bytes of a process's complaints that are read.
_ERRORS_SIZE = 64 * 1024
#: Whether a socket takes descriptors, since Linux 6.16.
_SO_PASSRIGHTS = 83


class Supervisor:
    """The one process that the server starts. It must be started before the gRPC server exists."""

    def __init__(self, process: subprocess.Popen[bytes], peer: Peer, errors: int) -> None:
        self._process = process
        self._peer = peer
        self._errors = errors
        self.request = peer.request

    @classmethod
    def start(cls, settings: LocalSandboxSettings, users: int) -> Self:
        """Start it with an empty environment and no descriptor but its socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (theirs.fileno(), str(settings.work_directory), str(_GUEST_CODE), settings.first_user, users)
        code = f"import sys; sys.path.append({str(_HERE)!r}); from zygote.supervisor import main; main(*{arguments!r})"
        errors = os.memfd_create("supervisor-errors")
        try:
            process = subprocess.Popen(  # noqa: S603 - our own code under the configured interpreter
                [str(settings.guest_python.absolute()), "-I", "-S", "-B", "-c", code],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                cwd="/",
            )
        except OSError as error:
            ours.close()
            os.close(errors)
            raise SandboxUnavailable(f"the guest's Python {settings.guest_python} does not start: {error}") from error
        finally:
            theirs.close()
        return cls(process, Peer(ours, lambda _: None, _report_end, settings.answer_seconds), errors)

    def last_words(self) -> str:
        """The last line of what it complained about."""
        lines = os.pread(self._errors, _ERRORS_SIZE, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    async def stop(self) -> None:
        """End it, and with it every zygote, session and mount."""
        self._peer.close()
        await asyncio.to_thread(self._wait)
        os.close(self._errors)

    def _wait(self) -> None:
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _report_end() -> None:
    _log.error("the sandbox's supervisor has ended: no session runs or opens until the server is started anew")


class Zygote:
    """One zygote and the interpreters it forked."""

    def __init__(self) -> None:
        self._interpreters: dict[str, Interpreter] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._peer: Peer | None = None
        self._pidfd = -1
        self.spawned = 0
        #: Forks under way.
        self._spawning = 0
        self.alive = True
        #: No new interpreters come from it; it ends with the last one it has.
        self._retired = False

    @classmethod
    async def start(cls, supervisor: Supervisor, settings: LocalSandboxSettings) -> Self:
        """Have one started, and wait until its imports are done."""
        zygote = cls()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = os.memfd_create("zygote-errors")
        zygote._peer = Peer(ours, zygote._on_event, zygote._on_end, settings.answer_seconds)
        try:
            (zygote._pidfd,) = await supervisor.request("start_zygote", (theirs.fileno(), errors))
            theirs.close()
            async with asyncio.timeout(settings.start_seconds):
                await zygote._ready
        except (TimeoutError, SandboxUnavailable) as error:
            zygote.kill()
            said = os.pread(errors, _ERRORS_SIZE, 0).decode(errors="replace").strip()
            raise SandboxUnavailable(f"the sandbox's zygote does not start: {said or error}") from error
        except BaseException:
            zygote.kill()
            raise
        finally:
            theirs.close()
            os.close(errors)
        return zygote

    async def spawn(self, name: str, user: int, owner: int | None = None, entrances: Sequence[int] = ()) -> Interpreter:
        """Fork an interpreter, which waits for its place. The host user ``owner`` is to own its pipes.

        It enters its control group by the ``entrances``, before anything else.
        """
        self.spawned += 1
        self._spawning += 1
        try:
            self._interpreters[name] = interpreter = await self._fork(name, user, owner, entrances)
        finally:
            self._spawning -= 1
            self._end_if_idle()
        return interpreter

    async def _fork(self, name: str, user: int, owner: int | None, entrances: Sequence[int]) -> Interpreter:
        assert self._peer is not None
        ours, theirs = _connect()
        stdout, stdout_end = os.pipe()
        stderr, stderr_end = os.pipe()
        kept = [stdout, stderr]
        try:
            if owner is not None:
                # Else nobody in the session may open them by name, as in ``echo oops > /dev/stderr``.
                os.fchown(stdout_end, owner, owner)
                os.fchown(stderr_end, owner, owner)
            descriptors = (theirs.fileno(), stdout_end, stderr_end, *entrances)
            (pidfd,) = await self._peer.request("spawn", descriptors, name=name, user=user)
            interpreter = Interpreter(name, user, pidfd, ours, stdout, stderr)
        except BaseException:
            ours.close()
            for descriptor in kept:
                os.close(descriptor)
            raise
        finally:
            theirs.close()
            os.close(stdout_end)
            os.close(stderr_end)
        return interpreter

    def retire(self) -> None:
        """Let it end with its last interpreter."""
        self._retired = True
        self._end_if_idle()

    def kill(self) -> None:
        """End it and all its interpreters now."""
        self.alive = False
        if self._peer is not None:
            self._peer.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_event(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                if not self._ready.done():
                    self._ready.set_result(None)
            case "ended":
                interpreter = self._interpreters.pop(event["name"], None)
                if interpreter is not None:
                    interpreter.report_end(Ending(event["exit_code"], event["cpu_seconds"]))
                self._end_if_idle()

    def _on_end(self) -> None:
        self.kill()
        if not self._ready.done():
            self._ready.set_exception(SandboxUnavailable("it ended while it started"))
        for interpreter in self._interpreters.values():
            interpreter.report_end(Ending(-signal.SIGKILL, 0.0))
        self._interpreters.clear()

    def _end_if_idle(self) -> None:
        if self._retired and not self._interpreters and not self._spawning:
            self.kill()


def _connect() -> tuple[socket.socket, socket.socket]:
    """The server's and the guest's end of a control socket."""
    ours, theirs = socket.socketpair()
    # Both are of the server's network. An end that has a name, as the kernel gives it one here, can take no other: code
    # would keep the host's programs from theirs.
    theirs.bind("")
    # Descriptors that come with a frame would be let go of on the event loop, with all the memory that hangs on them.
    with contextlib.suppress(OSError):
        ours.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    return ours, theirs
