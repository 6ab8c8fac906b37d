"""One request to the interpreter: what that writes goes to the server in the order in which it was written."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..guest.frames import FrameError, encode
from ..observing.files import compare
from ..observing.leftovers import boot_time, end_leftovers
from ..observing.lookout import Lookout
from .data import DATA_DIRECTORY, Data
from .interpreter import Interpreter, unread_bytes
from .wire import Wire

#: Bytes read at a time, and what a pipe holds unless told otherwise.
_READ_SIZE = 64 * 1024
#: Bytes of frames that are read at a time, unless a single one takes more.
_FRAMES_SIZE = 4 * 1024
#: Bytes that a pipe is made to hold, once code fills it faster than it is read.
_WIDE = 512 * 1024
#: Changes in one frame.
_CHANGES = 500


class Execution:
    """A request that is under way. The loop calls it with the descriptors that can be read or written."""

    def __init__(
        self, number: int, request_id: int, interpreter: Interpreter, wire: Wire, data: Data, request: bytes
    ) -> None:
        self.number = number
        #: What the guest's frames are to name.
        self._request_id = request_id
        self._interpreter = interpreter
        self._wire = wire
        self._data = data
        #: What is not yet handed over of the code.
        self._request = memoryview(request)
        #: Bytes that the server still has room for.
        self.credit = 0
        #: Nothing that the code started is to outlive it.
        self.is_hard = False
        self._lookout = Lookout()
        self._since = boot_time()
        #: The guest has said what the result is.
        self.has_result = False
        #: The server had it killed: a result that was on its way came too late.
        self.was_killed = False
        #: What was wrong with what the interpreter sent.
        self.broken: str | None = None

    def wants(self) -> Iterator[tuple[int, bool]]:
        """What it waits for: descriptors, each with whether it is to be written to."""
        control = self._interpreter.control.fileno()
        if self._request and control in self._interpreter.open:
            yield control, True
        if self.credit > 0:
            for descriptor in self._interpreter.open:
                yield descriptor, False

    def advance(self, readable: set[int], writable: set[int]) -> bool:
        """Pass on what there is; whether the execution is over."""
        interpreter = self._interpreter
        control = interpreter.control.fileno()
        if control in writable:
            self._hand_over()
        for descriptor in (interpreter.stdout, interpreter.stderr):
            if descriptor in readable:
                self._read_output(descriptor)
        if control in readable:
            self._read_frames()
        if not interpreter.alive and not self.has_result:
            # There is not much of it, whether or not anybody has asked for that.
            self._drain()
        return (self.has_result and not self.was_killed) or not interpreter.alive

    def find_finished(self) -> list[tuple[str, str, int]]:
        """The files that code which still runs has finished."""
        state = os.statvfs(DATA_DIRECTORY)
        if not self._lookout.is_worth(state.f_bfree, state.f_ffree):
            return []
        began = time.monotonic()
        now = self._data.look()
        before = self._data.snapshot
        self._data.snapshot = self._lookout.finished(before, now, time.monotonic() - began)
        return compare(before, self._data.snapshot)

    def end_leftovers(self) -> bool:
        """End what the code started and left running; whether nothing of it is left."""
        return end_leftovers(self._interpreter.pid, self._since, self._interpreter.own_threads, processes_beside)

    def send_changes(self, changes: list[tuple[str, str, int]]) -> None:
        """Tell the server of changed files."""
        for start in range(0, len(changes), _CHANGES):
            self._wire.send({"type": "changes", "id": self.number, "changes": changes[start : start + _CHANGES]})

    def _hand_over(self) -> None:
        try:
            count = self._interpreter.control.send(self._request[:_READ_SIZE], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._request = memoryview(b"")  # it has ended, as the kernel will say
            return
        self._request = self._request[count:]

    def _drain(self) -> None:
        """The interpreter has ended: what it wrote before is all that there is."""
        self._read_rest()
        while self._interpreter.control.fileno() in self._interpreter.open and not self.has_result:
            if not self._read_frames():
                return

    def _read_output(self, descriptor: int, size: int = _WIDE) -> None:
        try:
            data = os.read(descriptor, size)
        except BlockingIOError:
            return
        if len(data) == _READ_SIZE:
            with suppress(OSError):  # a user may only have so many pages in pipes
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _WIDE)
        if not data:
            self._interpreter.open.discard(descriptor)  # closed by the code, and by all it started
            return
        self.credit -= len(data)
        stream = 1 if descriptor == self._interpreter.stdout else 2
        self._wire.send({"type": "output", "id": self.number, "stream": stream}, data)

    def _read_rest(self) -> None:
        """Read what lies in the pipes now, and no more: somebody may go on writing."""
        for descriptor in (self._interpreter.stdout, self._interpreter.stderr):
            left = unread_bytes(descriptor) if descriptor in self._interpreter.open else 0
            while left > 0:
                self._read_output(descriptor, min(left, _WIDE))
                left -= _WIDE

    def _read_frames(self) -> bool:
        """Read from the control socket; whether there was something."""
        interpreter = self._interpreter
        # What was printed before a frame was in the pipe before the frame's first byte; what comes after it is written
        # once the guest sees that all of the frame was taken.
        self._read_rest()
        try:
            data = interpreter.control.recv(min(_READ_SIZE, max(_FRAMES_SIZE, interpreter.frames.missing)))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            # Without its socket an interpreter is of no use, alive or not.
            self._give_up(None)
            return False
        try:
            for header, body in interpreter.frames.feed(data):
                self._pass_on(header, body)
        except FrameError as error:
            self._give_up(str(error))
        return True

    def _pass_on(self, header: dict[str, Any], body: bytes) -> None:
        named = header.get("id")
        if self.has_result or type(named) is not int or named != self._request_id:
            raise FrameError("a frame that belongs to no request")
        frame = encode(header, body)
        self.credit -= len(frame)
        self._wire.send({"type": "guest", "id": self.number}, frame)
        self.has_result = header["type"] == "result"

    def _give_up(self, why: str | None) -> None:
        self.broken = self.broken or why
        self._interpreter.open.discard(self._interpreter.control.fileno())
        self._interpreter.signal(signal.SIGKILL)


def processes_beside(pid: int) -> Iterator[tuple[int, int]]:
    """All processes of the container but the agent and one other, each with its parent."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - names alone
        if name.isdigit() and int(name) not in (1, pid):
            with suppress(OSError, IndexError, ValueError):
                yield int(name), int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
