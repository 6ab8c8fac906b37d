"""The agent's loop: the first process of a container, and so the parent of all that nobody else waits for.

Nobody in the container can kill it: the kernel keeps signals of a namespace from its first process. It closes itself to
the others (PR_SET_DUMPABLE), since they are the same user.
"""

import errno
import gc
import importlib
import os
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..guest.frames import FrameError, encode
from ..guest.interrupts import AGAIN
from ..observing.files import compare
from ..zygote import syscalls
from . import sources
from .counters import Counters
from .data import DATA_DIRECTORY, INPUT_DIRECTORY, Data, Incoming
from .execution import Execution
from .interpreter import FailedToStart, Interpreter
from .wire import BACKLOG, PROTOCOL, Wire

#: Bytes of a file that are read at a time.
_CHUNK = 256 * 1024
#: Files in one frame.
_FILES = 500
#: Characters of what went wrong.
_MESSAGE = 2000
#: What no limit of a user binds: the container's own counts processes.
_ANY_PROCESSES = 2**22
_PLACES = {"data": DATA_DIRECTORY, "tmp": "/tmp"}  # noqa: S108 - the session's own


def main() -> None:
    """Import what sessions need, say so, and serve the server until it hangs up."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    # Of the other processes here nobody is to stop this one, not even by an exception.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    environment = _environment()
    os.environ.clear()
    os.environ.update(environment)
    guest = importlib.import_module("..guest.runner", __package__)
    if os.environ.pop("AFARENSIS_WARM", "1") == "1":
        guest.prepare()
    runner = guest.Runner(DATA_DIRECTORY)
    gc.collect()
    gc.freeze()
    Agent(runner, Wire(0, 1)).serve()


def _environment() -> dict[str, str]:
    """The whole environment of user code: what the server chose, and nothing that the engine added."""
    return {name: value for name, value in os.environ.items() if name != "HOSTNAME"}


class _Read:
    """A file on its way to the server."""

    def __init__(self, descriptor: int, left: int, credit: int) -> None:
        self.descriptor = descriptor
        self.left = left
        self.credit = credit


class Agent:
    """What serves one session, or waits for it."""

    def __init__(self, runner: Any, wire: Wire) -> None:
        self._runner = runner
        self._wire = wire
        self._data = Data()
        self._counters = Counters()
        self._interpreter: Interpreter | None = None
        self._execution: Execution | None = None
        #: The processor time of interpreter and container when the execution began.
        self._began: tuple[float, float | None] = (0.0, None)
        self._is_fresh = False
        self._limits: dict[str, Any] | None = None
        self._start_seconds = 60.0
        self._reads: dict[int, _Read] = {}
        self._incoming: dict[int, Incoming] = {}
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken = woken
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Work until the server hangs up; the kernel ends all processes of the container with this one."""
        self._wire.send({"type": "hello", "id": 0, "protocol": PROTOCOL, "digest": sources.digest()})
        with suppress(EOFError, FrameError, BrokenPipeError):
            while True:
                self._turn()

    def _turn(self) -> None:
        readable, writable = self._wait()
        if self._woken in readable:
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
        if self._wire.outgoing in writable:
            self._wire.flush()
        if self._wire.incoming in readable:
            for header, body in self._wire.read():
                self._handle(header, body)
        if self._execution is not None and self._execution.advance(readable, writable):
            self._finish(self._execution)
        if self._wire.backlog < BACKLOG:
            self._read_on()

    def _wait(self) -> tuple[set[int], set[int]]:
        waiting: dict[int, int] = {self._wire.incoming: select.POLLIN, self._woken: select.POLLIN}
        timeout: int | None = None
        if self._wire.backlog:
            waiting[self._wire.outgoing] = select.POLLOUT
        if self._wire.backlog < BACKLOG:
            if self._execution is not None:
                for descriptor, is_written in self._execution.wants():
                    event = select.POLLOUT if is_written else select.POLLIN
                    waiting[descriptor] = waiting.get(descriptor, 0) | event
            if any(read.credit > 0 for read in self._reads.values()):
                timeout = 0
        poll = select.poll()
        for descriptor, events in waiting.items():
            poll.register(descriptor, events)
        found = poll.poll(timeout)
        broken = select.POLLHUP | select.POLLERR
        readable = {one for one, event in found if event & (select.POLLIN | broken)}
        return readable, {one for one, event in found if event & (select.POLLOUT | broken)}

    # --- what the server asks for -------------------------------------------------------------------------------------

    def _handle(self, header: dict[str, Any], body: bytes) -> None:
        number, kind = header["id"], header["type"]
        execution = self._execution if self._execution is not None and self._execution.number == number else None
        match kind:
            case "credit":
                if execution is not None:
                    execution.credit += header["bytes"]
                elif number in self._reads:
                    self._reads[number].credit += header["bytes"]
            case "data":
                self._receive(number, body)
            case "put":
                self._incoming[number] = self._data.begin(header["name"], header["file_id"], header["size"])
                self._receive(number, b"")
            case "stop":
                self._end_read(number)
            case "interrupt" | "kill" | "hard" | "look":
                if execution is not None:
                    self._steer(execution, kind, header)
            case _:
                self._answer(number, kind, header, body)

    def _steer(self, execution: Execution, kind: str, header: dict[str, Any]) -> None:
        interpreter = self._interpreter
        assert interpreter is not None
        if kind == "interrupt":
            interpreter.signal(AGAIN if header["again"] else signal.SIGINT)
        elif kind == "hard":
            execution.is_hard = True
        elif kind == "kill":
            execution.was_killed = True
            interpreter.signal(signal.SIGKILL)
            if execution.is_hard:
                self._kill_all()
        else:
            execution.send_changes(execution.find_finished())

    def _answer(self, number: int, kind: str, header: dict[str, Any], body: bytes) -> None:
        """Do what ends with a reply, now or later."""
        try:
            answer = self._do(number, kind, header, body)
        except (OSError, ValueError, FailedToStart) as error:
            self._fail(number, error)
            return
        if answer is not None:
            self._reply(number, **answer)

    def _do(self, number: int, kind: str, header: dict[str, Any], body: bytes) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = {}
        match kind:
            case "ping":
                self._reap()
                answer = {"usable": self._interpreter is not None and self._interpreter.is_usable}
            case "spawn":
                self._start_seconds = header["start_seconds"]
                self._spawn(rehearse=header["ahead"])
                self._counters.rebase()
            case "limits":
                self._limits = {name: value for name, value in header.items() if name not in ("type", "id")}
                self._bind()
            case "discard":
                self._kill_all()
            case "prepare":
                answer = {"fresh": self._prepare()}
            case "execute":
                self._execute(number, header, body)
                answer = None
            case _:
                answer = self._do_with_files(number, kind, header)
        return answer

    def _do_with_files(self, number: int, kind: str, header: dict[str, Any]) -> dict[str, Any] | None:
        match kind:
            case "probe":
                return {"content": Path(INPUT_DIRECTORY, "probe").read_text()}
            case "show":
                for file in header["files"]:
                    self._data.show(**file, copy_bytes=header["copy_bytes"], copies_bytes=header["copies_bytes"])
                self._data.settle()
            case "list":
                files = self._data.files()
                for start in range(0, len(files), _FILES):
                    self._wire.send({"type": "files", "id": number, "files": files[start : start + _FILES]})
            case "stat":
                return {"file": self._data.stat(header["path"])}
            case "read":
                return self._begin_read(number, header)
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        return {}

    def _reply(self, number: int, **fields: Any) -> None:
        self._wire.send({"type": "reply", "id": number, **fields})

    def _fail(self, number: int, error: Exception) -> None:
        code, message = None, str(error)
        if isinstance(error, OSError):
            code, message = error.errno or errno.ENOENT, error.strerror or message
        self._reply(number, error={"errno": code, "message": message[:_MESSAGE]})

    # --- interpreters -------------------------------------------------------------------------------------------------

    def _spawn(self, *, rehearse: bool) -> None:
        interpreter = Interpreter.fork(self._runner, DATA_DIRECTORY, rehearse=rehearse)
        self._interpreter = interpreter
        try:
            interpreter.wait_ready(self._start_seconds)
        except FailedToStart:
            interpreter.signal(signal.SIGKILL)
            raise
        self._bind()

    def _bind(self) -> None:
        """Tell the interpreter the limits of its processes."""
        if self._interpreter is not None and self._limits is not None:
            frame = {"type": "limits", "processes": _ANY_PROCESSES, **self._limits}
            with suppress(OSError):  # it has ended, as the next request will find
                self._interpreter.control.sendall(encode(frame))

    def _prepare(self) -> bool:
        """Have an interpreter that lives; whether it is another one than before."""
        self._reap()
        interpreter = self._interpreter
        if interpreter is not None and interpreter.is_usable:
            return False
        self._kill_all()
        if interpreter is not None:
            interpreter.close()
            self._interpreter = None
        self._spawn(rehearse=False)
        return True

    def _execute(self, number: int, header: dict[str, Any], body: bytes) -> None:
        self._is_fresh = self._prepare()
        interpreter = self._interpreter
        assert interpreter is not None
        self._execution = Execution(number, header["request"], interpreter, self._wire, self._data, body)
        self._execution.credit = header["credit"]
        self._began = interpreter.cpu_seconds(), self._counters.usage().cpu_seconds

    def _finish(self, execution: Execution) -> None:
        """Tell all about an execution that is over."""
        interpreter = self._interpreter
        assert interpreter is not None
        ended = not interpreter.alive and (execution.was_killed or not execution.has_result)
        own = interpreter.cpu_seconds()
        if execution.is_hard and not ended and not execution.end_leftovers():
            self._kill_all()
            ended = True
        elif not interpreter.alive:
            # As in a namespace whose first process it was: all that it started ends with it.
            self._kill_all()
        before, after = self._data.snapshot, self._data.look()
        self._data.snapshot = after
        execution.send_changes(compare(before, after))
        usage = self._counters.usage()
        own_before, all_before = self._began
        cpu = own - own_before if usage.cpu_seconds is None or all_before is None else usage.cpu_seconds - all_before
        self._execution = None
        self._reply(
            execution.number,
            fresh=self._is_fresh,
            exit_code=interpreter.exit_code if ended else None,
            broken=execution.broken,
            cpu_seconds=max(0.0, cpu),
            peak_memory_bytes=usage.peak_memory_bytes or 0,
            oom_kills=usage.oom_kills,
            refused_forks=usage.refused_forks,
            full=_full_disks(),
        )

    def _kill_all(self) -> None:
        """Kill every process of the container but this one, and wait until they are gone."""
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        while self._reap_one(0):
            pass

    def _reap(self) -> None:
        """Take note of processes that ended, those that nobody else waits for included."""
        while self._reap_one(os.WNOHANG):
            pass

    def _reap_one(self, options: int) -> bool:
        try:
            pid, status = os.waitpid(-1, options)
        except ChildProcessError:
            return False
        if self._interpreter is not None and pid == self._interpreter.pid:
            self._interpreter.exit_code = os.waitstatus_to_exitcode(status)
        return pid != 0

    # --- files --------------------------------------------------------------------------------------------------------

    def _receive(self, number: int, body: bytes) -> None:
        incoming = self._incoming.get(number)
        if incoming is None or not incoming.write(body):
            return
        del self._incoming[number]
        if incoming.error is not None:
            self._fail(number, incoming.error)
            return
        self._data.settle()
        self._reply(number)

    def _begin_read(self, number: int, header: dict[str, Any]) -> dict[str, Any] | None:
        descriptor = self._data.open(header["path"])
        # No further than it reached at first: code may write to it faster than we read.
        left = os.fstat(descriptor).st_size - header["offset"]
        if header["limit"] is not None:
            left = min(left, header["limit"])
        if left <= 0:
            os.close(descriptor)
            return {}
        os.lseek(descriptor, header["offset"], os.SEEK_SET)
        self._reads[number] = _Read(descriptor, left, header["credit"])
        return None

    def _read_on(self) -> None:
        for number, read in list(self._reads.items()):
            if read.credit <= 0:
                continue
            try:
                data = os.read(read.descriptor, min(read.left, _CHUNK))
            except OSError as error:
                self._end_read(number)
                self._fail(number, error)
                continue
            read.left -= len(data)
            read.credit -= len(data)
            if data:
                self._wire.send({"type": "data", "id": number}, data)
            if not data or read.left == 0:
                self._end_read(number)
                self._reply(number)

    def _end_read(self, number: int) -> None:
        if (read := self._reads.pop(number, None)) is not None:
            os.close(read.descriptor)


def _full_disks() -> list[str]:
    """What is used up, by the name of the limit and the place."""
    full = []
    for name, place in _PLACES.items():
        state = os.statvfs(place)
        for limit, total, left in (
            ("disk_bytes", state.f_blocks, state.f_bfree),
            ("disk_inodes", state.f_files, state.f_ffree),
        ):
            if total and not left:
                full.append(f"{limit} {name}")
    return full
