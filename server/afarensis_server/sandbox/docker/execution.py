"""One cell on its way through a container's interpreter, from what the agent passes on."""

import time
from collections.abc import Iterator
from typing import Any

from ..driver import ExecutionEvent, FileChange, FileChangeKind, OutputStream, SandboxUnavailable, SessionLimits
from ..guest.frames import FrameBuffer, FrameError
from ..observing.files import is_path
from ..shared import execution
from ..shared.ending import Ending
from ..shared.execution import Stop
from ..shared.frames import MAX_BODY, MAX_HEADER
from .connection import AgentError, Connection, ConnectionLost, checked
from .container import Container

_STREAMS = {1: OutputStream.STDOUT, 2: OutputStream.STDERR}
#: Frames that are taken together.
_FRAMES = 16
#: The most that a number of the agent's can be.
_MOST = 2**62


class Execution(execution.Execution):
    """One request to a container's interpreter."""

    def __init__(
        self,
        container: Container,
        number: int,
        limits: SessionLimits,
        request: bytes,
        *,
        timeout_seconds: float,
        grace_seconds: float,
        window_bytes: int,
        answer_seconds: float,
    ) -> None:
        super().__init__(number, limits, timeout_seconds=timeout_seconds, grace_seconds=grace_seconds)
        self._connection: Connection = container.connection
        self._answer_seconds = answer_seconds
        self._guest = FrameBuffer(MAX_HEADER, MAX_BODY)
        self._call = self._connection.call("execute", request, window=window_bytes, request=number)
        self._told_hard = False
        self._was_killed = False
        #: What the agent says at the end; empty when there was no end that it saw.
        self.account: dict[str, Any] = {}

    def stop(self, why: Stop, within_seconds: float | None = None) -> None:
        """Interrupt the code; see ``SandboxSession``."""
        super().stop(why, within_seconds)
        if self.is_hard and not self._told_hard:
            self._told_hard = True
            self._call.send("hard")

    def look(self) -> None:
        """Have files told that the code has finished."""
        self._call.send("look")

    async def advance(self, at_most_seconds: float | None = None) -> list[ExecutionEvent]:
        """Wait for something to happen, no longer than this, and say what it shows. Raises SandboxUnavailable."""
        await self._pace.keep()
        due = self._outputs.due_in(time.monotonic())
        if due is None or (at_most_seconds is not None and at_most_seconds < due):
            due = at_most_seconds
        await self._call.wait(due)
        began = time.monotonic()
        try:
            events = list(self._take_frames())
        except ConnectionLost:
            events = []
            self.files_lost = True
            events += self._finish()
        now = time.monotonic()
        if not self.over and self._outputs.due_in(now) == 0.0:
            events += self._outputs.flush(now)
        self._pace.worked(began)
        return events

    def close(self) -> None:
        """Let go of the interpreter."""
        self._cancel_timers()
        self._call.close()

    def _send_interrupt(self, *, again: bool) -> None:
        self._call.send("interrupt", again=again)

    def _kill(self) -> None:
        self._was_killed = True
        self._call.send("kill")
        self._deadline = self._loop.call_later(self._answer_seconds, self._give_up)

    def _kill_all(self) -> None:
        self._kill()

    def _give_up(self) -> None:
        if not self._call.is_answered:
            self._connection.give_up(f"its agent did not end the code within {self._answer_seconds:g} s")

    def _take_frames(self) -> Iterator[ExecutionEvent]:
        for _ in range(_FRAMES):
            frame = self._call.take_now()
            if frame is None:
                return
            header, body = frame
            match header["type"]:
                case "output":
                    self._pace.count(0 if self.dropped_output_bytes else len(body))
                    named = header.get("stream")
                    stream = _STREAMS.get(named) if type(named) is int else None
                    if stream is None:
                        self._connection.give_up("its agent broke the protocol (an unknown stream)")
                        return
                    yield from self._outputs.feed(stream, memoryview(body), time.monotonic())
                case "guest":
                    yield from self._take_guest(body)
                case "changes":
                    yield from self._take_changes(header["changes"])
                case "reply":
                    yield from self._end(header)
                    return
                case _:
                    self._connection.give_up("its agent broke the protocol (a frame of no execution)")
                    return

    def _take_guest(self, data: bytes) -> Iterator[ExecutionEvent]:
        if self.broken is not None:
            return  # it is being killed for it
        try:
            for header, body in self._guest.feed(data):
                self._pace.count(0)
                yield from self._take(header, body)
        except FrameError as error:
            self.broken = str(error)
            self._kill()

    def _take_changes(self, changes: object) -> Iterator[ExecutionEvent]:
        try:
            found = [parse_change(change) for change in changes] if isinstance(changes, list) else None
        except ValueError:
            found = None
        if found is None:
            self._connection.give_up("its agent broke the protocol (a change that is none)")
            return
        yield from self._outputs.flush(time.monotonic())
        yield from found

    def _end(self, header: dict[str, Any]) -> Iterator[ExecutionEvent]:
        try:
            self.account = checked(header)
        except (AgentError, OSError) as error:
            self._cancel_timers()
            self.over = True
            raise SandboxUnavailable(str(error)) from error
        code = self.account.get("exit_code")
        if type(code) is int and -256 < code < 256:
            self.ending = Ending(code, 0.0)
            if self._was_killed and self.broken is None:
                # A result that was on its way came too late: it tells of an interpreter that is no more.
                self.result = None
        if self.result is None and self.ending is None:
            self.ending = Ending(-9, 0.0)
        broken = self.account.get("broken")
        if self.broken is None and isinstance(broken, str):
            self.broken = broken[:200]
        # The changes came before, but what code printed at last comes before them.
        yield from self._finish()

    @property
    def is_trusted(self) -> bool:
        """Whether its interpreter may go on as far as the agent knows."""
        return self.broken is None or self.files_lost or self.account.get("exit_code") is not None

    def count(self, name: str) -> float:
        """A number of the agent's account."""
        value = self.account.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST else 0


def parse_change(change: object) -> FileChange:
    """Check a change of a file. Raises ValueError."""
    if not isinstance(change, list) or len(change) != 3:
        raise ValueError("no change")
    path, kind, size = change
    if not isinstance(path, str) or not is_path(path) or type(size) is not int or not 0 <= size < _MOST:
        raise ValueError("no change")
    return FileChange(path, FileChangeKind(kind), size)
