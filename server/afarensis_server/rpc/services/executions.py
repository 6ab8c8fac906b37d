"""An execution that its client may leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import structlog

from ...domain.executions import ExecutionEvent

_log = structlog.get_logger(__name__)

#: Events that wait for a slow client; then the code waits, too.
_WAITING_EVENTS = 64


class Execution:
    """Code that runs in a task of its own, so that a client that goes away does not stop it."""

    def __init__(self, events: AsyncIterator[ExecutionEvent]) -> None:
        self._source: Any = events
        self._events: asyncio.Queue[ExecutionEvent | None] = asyncio.Queue(_WAITING_EVENTS)
        self._is_left_alone = False
        self.task = asyncio.create_task(self._run(), name="execution")
        self.task.add_done_callback(self._wake)

    async def events(self, heartbeat_seconds: float) -> AsyncIterator[ExecutionEvent | None]:
        """The events in order, with None in each interval in which there is none. Raises what the execution raised."""
        while not (self.task.done() and self._events.empty()):
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    event = await self._events.get()
            except TimeoutError:
                yield None
            else:
                if event is not None:
                    yield event
        self.task.result()

    def _wake(self, task: asyncio.Task[None]) -> None:
        # A reader of a full queue needs no waking: it looks again at each event.
        if not self._events.full():
            self._events.put_nowait(None)

    async def _run(self) -> None:
        async with aclosing(self._source) as events:
            async for event in events:
                if not self._is_left_alone:
                    await self._events.put(event)

    def leave_alone(self) -> None:
        """Let the code go on without anybody who reads."""
        self._is_left_alone = True
        while not self._events.empty():
            self._events.get_nowait()
        self.task.add_done_callback(_report)

    async def interrupt(self) -> None:
        """Interrupt the code and wait until it has ended."""
        self.task.cancel()
        await asyncio.wait({self.task})


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("execution ended without its client", error=type(error).__name__)
