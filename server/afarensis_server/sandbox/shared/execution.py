"""One cell on its way through an interpreter, from the request to how it ended: what is the same for every driver."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from ..driver import ExecutionEvent, SessionLimits
from ..guest.frames import PREFIX, FrameError, encode
from ..guest.limits import MAX_REQUEST
from .ending import Ending
from .frames import ResultFrame, parse_display, parse_result
from .outputs import Outputs
from .pace import Pace

#: Seconds that a guest gets to take up a request: an interrupt before it has would be lost.
_SETTLE_SECONDS = 0.05
#: Seconds after which code that goes on is interrupted again, and twice as many each time after that.
_AGAIN_SECONDS = 0.1
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


class Execution(ABC):
    """One request to an interpreter. Ask it to ``advance`` until it is ``over``.

    Nothing is read in between, so a consumer that is slow slows the code. Cancelling ``advance`` loses nothing: who has
    no use for the rest calls ``settle``.
    """

    def __init__(self, number: int, limits: SessionLimits, *, timeout_seconds: float, grace_seconds: float) -> None:
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
        self._started = time.monotonic()
        # It counts whether or not anybody takes the events.
        self._timer = self._loop.call_later(timeout_seconds, self.stop, Stop.TIMEOUT)
        self._deadline: asyncio.TimerHandle | None = None
        self._next_interrupt: asyncio.TimerHandle | None = None
        #: Why the code was told to stop, if it was.
        self.stopped: Stop | None = None
        #: What the guest says the result is; None when the interpreter ended instead.
        self.result: ResultFrame | None = None
        #: How the interpreter ended, if it did.
        self.ending: Ending | None = None
        #: What was wrong with the frames of an interpreter that was killed for it.
        self.broken: str | None = None
        #: Why there is no interpreter any more, where that is not how it ended.
        self.lost: str | None = None
        #: The session's files went with the interpreter.
        self.files_lost = False
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

    @abstractmethod
    async def advance(self, at_most_seconds: float | None = None) -> list[ExecutionEvent]:
        """Wait for something to happen, no longer than this, and say what it shows."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the interpreter."""

    async def settle(self) -> None:
        """Stop the code and let it end, with nobody looking."""
        self.stop(Stop.INTERRUPT)
        try:
            while not self.over:
                await self.advance()
        finally:
            self.close()

    @abstractmethod
    def _send_interrupt(self, *, again: bool) -> None:
        """Interrupt the code from outside. ``again``: in case that it did not hear of it."""

    @abstractmethod
    def _kill(self) -> None:
        """Kill the interpreter."""

    @abstractmethod
    def _kill_all(self) -> None:
        """Kill the interpreter, and all that the code started, at once."""

    def _interrupt(self) -> None:
        self._send_interrupt(again=False)
        self._next_interrupt = self._loop.call_later(_AGAIN_SECONDS, self._interrupt_again, _AGAIN_SECONDS)
        if not self.is_hard:
            self._timer = self._loop.call_later(self.grace_seconds, self._kill)

    def _interrupt_again(self, waited_seconds: float) -> None:
        self._send_interrupt(again=True)
        seconds = 2 * waited_seconds
        self._next_interrupt = self._loop.call_later(seconds, self._interrupt_again, seconds)

    def _cancel_timers(self) -> None:
        self._timer.cancel()
        for timer in (self._deadline, self._next_interrupt):
            if timer is not None:
                timer.cancel()

    def _finish(self) -> Iterator[ExecutionEvent]:
        """It is over: show what is left of the output."""
        self._cancel_timers()
        now = time.monotonic()
        self.wall_seconds = now - self._started
        self.over = True
        yield from self._outputs.finish(now)

    def _take(self, header: dict[str, Any], body: bytes) -> Iterator[ExecutionEvent]:
        """Take a frame of the guest. Raises FrameError."""
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
