"""One cell on its way through an interpreter, from the request to how it ended."""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Any

from ..driver import ExecutionEvent, OutputStream, SessionLimits
from ..guest.frames import PREFIX, FrameError, encode
from ..guest.limits import MAX_REQUEST
from .frames import ResultFrame, parse_display, parse_result
from .interpreter import Ending, Interpreter, unread_bytes
from .leftovers import boot_time, end_leftovers, kill_below
from .outputs import Outputs
from .pace import Pace

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
#: Seconds that a guest gets to take up a request: an interrupt before it has would be lost.
_SETTLE_SECONDS = 0.05
#: Bytes of ``display_bytes`` that a display takes beside its own: each is an event, however little it holds.
_DISPLAY_BYTES = 4 * 1024


class Stop(StrEnum):
    """Why code was told to stop."""

    TIMEOUT = "timeout"
    INTERRUPT = "interrupt"


def encode_request(number: int, code: str) -> bytes:
    """What hands code to a guest. Raises CodeTooLongError."""
    request = encode({"type": "execute", "id": number, "code": code})
    if len(request) - PREFIX.size > MAX_REQUEST:
        raise CodeTooLongError(len(request))
    return request


class CodeTooLongError(ValueError):
    """The code is longer than what a guest takes."""


class Execution:
    """One request to an interpreter. Ask it to ``advance`` until it is ``over``.

    Nothing is read in between, so a consumer that is slow slows the code. Cancelling ``advance`` loses nothing: who has
    no use for the rest calls ``settle``.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        number: int,
        limits: SessionLimits,
        *,
        timeout_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._interpreter = interpreter
        interpreter.hold()
        self._number = number
        #: What interrupted code gets to end by itself.
        self.grace_seconds = grace_seconds
        #: Nothing that the code started is to outlive it.
        self.is_hard = False
        self._loop = asyncio.get_running_loop()
        self._outputs = Outputs(limits.output_bytes)
        self._pace = Pace()
        self._display_left = limits.display_bytes
        #: Bytes of displays that were left out, and what they would have taken of the limit.
        self.dropped_display_bytes = 0
        self.refused_display_bytes = 0
        self._control = interpreter.control.fileno()
        self._streams = {interpreter.stdout: OutputStream.STDOUT, interpreter.stderr: OutputStream.STDERR}
        self._started = time.monotonic()
        self._started_boot = boot_time()
        # It counts whether or not anybody takes the events.
        self._timer = self._loop.call_later(timeout_seconds, self.stop, Stop.TIMEOUT)
        self._deadline: asyncio.TimerHandle | None = None
        self._killing: asyncio.Future[None] | None = None
        #: Why the code was told to stop, if it was.
        self.stopped: Stop | None = None
        #: What the guest says the result is; None when the interpreter ended instead.
        self.result: ResultFrame | None = None
        #: How the interpreter ended, if it did.
        self.ending: Ending | None = None
        #: What was wrong with the frames of an interpreter that was killed for it.
        self.broken: str | None = None
        self.over = False
        self.wall_seconds = 0.0

    @property
    def elapsed_seconds(self) -> float:
        """How long ago the code was handed over."""
        return time.monotonic() - self._started

    @property
    def dropped_output_bytes(self) -> int:
        """Bytes of output that were left out."""
        return self._outputs.dropped_bytes

    def stop(self, why: Stop, within_seconds: float | None = None) -> None:
        """Interrupt the code, and kill the interpreter if that does not end it in time; see ``SandboxSession``."""
        if self.over:
            return
        if within_seconds is not None and not self.is_hard:
            self.is_hard = True
            self.grace_seconds = min(within_seconds, self.grace_seconds)
            self._deadline = self._loop.call_later(within_seconds, self._kill_all)
        if self.stopped is None:
            self.stopped = why
            self._timer.cancel()
            delay = self._started + _SETTLE_SECONDS - time.monotonic()
            self._timer = self._loop.call_later(max(0.0, delay), self._interrupt)

    async def send(self, request: bytes) -> None:
        """Hand over the code, as ``encode_request`` made it."""
        try:
            await self._loop.sock_sendall(self._interpreter.control, request)
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
        with self._pace.measured():
            events = list(self._read(ready))
        ended = self._interpreter.pidfd in ready
        if ended and self.result is None:
            self.ending = await self._interpreter.ended()
        if ended or self.result is not None:
            self._cancel_timers()
            now = time.monotonic()
            self.wall_seconds = now - self._started
            self.over = True
            events += self._outputs.finish(now)
        return events

    async def settle(self) -> None:
        """Stop the code and let it end, with nobody looking."""
        self.stop(Stop.INTERRUPT)
        try:
            while not self.over:
                await self.advance()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the interpreter."""
        self._cancel_timers()
        self._interpreter.release()

    async def end_leftovers(self) -> None:
        """End what the code started and left running, with the interpreter if there is no other way."""
        pid, since = self._interpreter.pid, self._started_boot
        if self.ending is None and not await asyncio.to_thread(end_leftovers, pid, since):
            self._kill_all()
            self.ending = await self._interpreter.ended()
        if self._killing is not None:
            await self._killing

    def _cancel_timers(self) -> None:
        self._timer.cancel()
        if self._deadline is not None:
            self._deadline.cancel()

    def _interrupt(self) -> None:
        self._interpreter.signal(signal.SIGINT)
        if not self.is_hard:
            self._timer = self._loop.call_later(self.grace_seconds, self._kill)

    def _kill(self) -> None:
        self._interpreter.kill()

    def _kill_all(self) -> None:
        self._kill()
        pid, pidfd = self._interpreter.pid, os.dup(self._interpreter.pidfd)
        self._killing = self._loop.run_in_executor(None, kill_below, pid, pidfd)

    def _read(self, ready: set[int]) -> Iterator[ExecutionEvent]:
        for descriptor, stream in self._streams.items():
            if descriptor in ready:
                yield from self._read_output(descriptor, stream)
        if self._control in ready:
            yield from self._read_frames()
        now = time.monotonic()
        if self._outputs.due_in(now) == 0.0:
            yield from self._outputs.flush(now)
        if self._interpreter.pidfd in ready:
            yield from self._read_rest()

    def _read_output(self, descriptor: int, stream: OutputStream, size: int = _WIDE) -> Iterator[ExecutionEvent]:
        try:
            count = os.readv(descriptor, [_buffer[:size]])
        except BlockingIOError:
            return
        if count == _READ_SIZE:
            with suppress(OSError):  # a user may only have so many pages in pipes
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _WIDE)
        if not count:
            self._interpreter.forget(descriptor)  # closed by the code, and by all it started
        self._pace.count(count)
        # All of it is taken before anybody else reads: there is one buffer for all executions.
        yield from list(self._outputs.feed(stream, _buffer[:count], time.monotonic()))

    def _read_rest(self) -> Iterator[ExecutionEvent]:
        """Read what lies in the pipes now, and no more: somebody may go on writing."""
        for descriptor, stream in self._streams.items():
            left = unread_bytes(descriptor) if descriptor in self._interpreter.open else 0
            while left > 0:
                yield from self._read_output(descriptor, stream, min(left, _WIDE))
                left -= _WIDE

    def _read_frames(self) -> Iterator[ExecutionEvent]:
        control = self._interpreter.control
        # What was printed before a frame was in the pipe before the frame's first byte; what comes after it is written
        # once the guest sees that all of the frame was taken.
        yield from self._read_rest()
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
                yield from self._take(header, body)
        except FrameError as error:
            self.broken = str(error)
            self._interpreter.forget(self._control)
            self._kill()

    def _take(self, header: dict[str, Any], body: bytes) -> Iterator[ExecutionEvent]:
        number = header.get("id")
        # True is 1 to Python, but not to us.
        if type(number) is not int or number != self._number or self.result is not None:
            raise FrameError("a frame that belongs to no request")
        if header["type"] == "display":
            cost = _DISPLAY_BYTES + len(body)
            if cost > self._display_left:
                self.dropped_display_bytes += len(body)
                self.refused_display_bytes += cost
                return
            display = parse_display(header, body)
            self._display_left -= cost
            yield from self._outputs.flush(time.monotonic())
            yield display
        elif header["type"] == "result":
            self.result = parse_result(header)
        else:
            raise FrameError("a frame of an unknown type")
