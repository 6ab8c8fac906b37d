"""One cell on its way through an interpreter of this machine, read from its pipes and its socket."""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Set
from contextlib import suppress

from ..driver import ExecutionEvent, OutputStream, SessionLimits
from ..guest.frames import FrameError
from ..guest.interrupts import AGAIN
from ..observing.leftovers import boot_time, end_leftovers, kill_below
from ..shared import execution
from .interpreter import Interpreter, unread_bytes

#: Bytes read at a time, and what a pipe holds unless told otherwise.
_READ_SIZE = 64 * 1024
#: Bytes of frames that are read at a time, unless a single one takes more: each of the smallest takes 30 us, and nobody
#: else has the loop meanwhile.
_FRAMES_SIZE = 4 * 1024
#: Bytes that a pipe is made to hold, and that are read at a time, once code fills it faster than it is read: what goes
#: together costs one wake-up, one commit and one turn of each other process.
_WIDE = 512 * 1024
#: A fresh one for each read would cost page faults.
_buffer = memoryview(bytearray(_WIDE))


class Execution(execution.Execution):
    """One request to a local interpreter."""

    def __init__(
        self,
        interpreter: Interpreter,
        number: int,
        limits: SessionLimits,
        *,
        timeout_seconds: float,
        grace_seconds: float,
    ) -> None:
        super().__init__(number, limits, timeout_seconds=timeout_seconds, grace_seconds=grace_seconds)
        self._interpreter = interpreter
        interpreter.hold()
        self._control = interpreter.control.fileno()
        self._streams = {interpreter.stdout: OutputStream.STDOUT, interpreter.stderr: OutputStream.STDERR}
        self._started_boot = boot_time()
        self._killing: asyncio.Future[None] | None = None

    async def send(self, request: bytes) -> None:
        """Hand over the code, as ``encode_request`` made it."""
        control = self._interpreter.control
        try:
            # All of it at once, as a rule: the loop's way takes three times as long.
            try:
                sent = control.send(request)
            except BlockingIOError:
                sent = 0
            if sent < len(request):
                await self._loop.sock_sendall(control, memoryview(request)[sent:])
        except OSError:
            return  # the interpreter has ended, as its pidfd will say
        except asyncio.CancelledError:
            self._kill()  # half a frame makes no sense of any further one
            raise

    async def advance(self, at_most_seconds: float | None = None) -> list[ExecutionEvent]:
        """Wait for something to happen, no longer than this, and say what it shows."""
        await self._pace.keep()
        due = self._outputs.due_in(time.monotonic())
        if due is None or (at_most_seconds is not None and at_most_seconds < due):
            due = at_most_seconds
        ready = await self._interpreter.watch.readable(due)
        began = time.monotonic()
        events = self._read(ready)
        self._pace.worked(began)
        if self._interpreter.is_killed and self.broken is None:
            # A result that was on its way came too late: it tells of an interpreter that is no more.
            self.result = None
        ended = self._interpreter.pidfd in ready
        if ended and self.result is None:
            self.ending = await self._interpreter.ended()
        if ended or self.result is not None:
            events += self._finish()
        return events

    def close(self) -> None:
        """Let go of the interpreter."""
        self._cancel_timers()
        self._interpreter.release()

    async def end_leftovers(self) -> None:
        """End what the code started and left running, with the interpreter if there is no other way."""
        pid, since, own = self._interpreter.pid, self._started_boot, self._interpreter.own_threads
        if self.ending is None and not await asyncio.to_thread(end_leftovers, pid, since, own):
            self._kill_all()
            self.ending = await self._interpreter.ended()
        if self._killing is not None:
            await self._killing

    def _send_interrupt(self, *, again: bool) -> None:
        self._interpreter.signal(AGAIN if again else signal.SIGINT)

    def _kill(self) -> None:
        self._interpreter.kill()

    def _kill_all(self) -> None:
        self._kill()
        pid, pidfd = self._interpreter.pid, os.dup(self._interpreter.pidfd)
        self._killing = self._loop.run_in_executor(None, kill_below, pid, pidfd)

    def _read(self, ready: Set[int]) -> list[ExecutionEvent]:
        events: list[ExecutionEvent] = []
        for descriptor, stream in self._streams.items():
            if descriptor in ready:
                self._read_output(descriptor, stream, _WIDE, events)
        # Most code prints and has ended: what came while its output was read is not waited for once more.
        if self._control in ready or (self._control in self._interpreter.open and unread_bytes(self._control)):
            self._read_frames(events)
        now = time.monotonic()
        if self._outputs.due_in(now) == 0.0:
            events.extend(self._outputs.flush(now))
        if self._interpreter.pidfd in ready:
            self._read_rest(events)
        return events

    def _read_output(self, descriptor: int, stream: OutputStream, size: int, events: list[ExecutionEvent]) -> None:
        try:
            count = os.readv(descriptor, [_buffer[:size]])
        except BlockingIOError:
            return
        if count == _READ_SIZE:
            with suppress(OSError):  # a user may only have so many pages in pipes
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _WIDE)
        if not count:
            self._interpreter.forget(descriptor)  # closed by the code, and by all it started
        # What is only dropped is read no faster than crumbs are, however large.
        self._pace.count(0 if self.dropped_output_bytes else count)
        # All of it is taken before anybody else reads: there is one buffer for all executions.
        events.extend(self._outputs.feed(stream, _buffer[:count], time.monotonic()))

    def _read_rest(self, events: list[ExecutionEvent]) -> None:
        """Read what lies in the pipes now, and no more: somebody may go on writing."""
        for descriptor, stream in self._streams.items():
            left = unread_bytes(descriptor) if descriptor in self._interpreter.open else 0
            while left > 0:
                self._read_output(descriptor, stream, min(left, _WIDE), events)
                left -= _WIDE

    def _read_frames(self, events: list[ExecutionEvent]) -> None:
        control = self._interpreter.control
        # What was printed before a frame was in the pipe before the frame's first byte; what comes after it is written
        # once the guest sees that all of the frame was taken.
        self._read_rest(events)
        try:
            data = control.recv(min(_READ_SIZE, max(_FRAMES_SIZE, self._interpreter.frames.missing)))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # Without its socket an interpreter is of no use, alive or not.
            self._interpreter.forget(self._control)
            self._kill()
            return
        try:
            for header, body in self._interpreter.frames.feed(data):
                self._pace.count(0)
                events.extend(self._take(header, body))
        except FrameError as error:
            self.broken = str(error)
            self._interpreter.forget(self._control)
            self._kill()
