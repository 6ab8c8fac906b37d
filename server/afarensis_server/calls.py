"""Counts the calls in progress: for their limits, and to end them when the server drains."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import ShuttingDown, TooManyCalls


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls the server works on at a time."""

    #: Calls with one answer.
    calls: int = 1_000
    #: Streams in either direction, and calls that wait for something.
    streams: int = 10_000


class Calls:
    """The calls in progress, each one a task.

    gRPC's own limit on concurrent calls would count idle streams against short calls, and when gRPC stops a server it
    does not wait until the handlers it cancelled have cleaned up. Both are done here.
    """

    def __init__(self, limits: CallLimits) -> None:
        self._limits = {"calls": limits.calls, "streams": limits.streams}
        self._active: dict[str, set[asyncio.Task[object]]] = {"calls": set(), "streams": set()}
        self._ended_by_us: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        #: No new calls are taken, and those in progress are about to end.
        self.draining = False

    @contextmanager
    def track(self, kind: str, *, also_draining: bool = False) -> Iterator[None]:
        """Count the current task as a call of a kind (calls or streams) while it lasts.

        Raises ShuttingDown when the server drains, also into a call that was in progress and got no more time, and
        TooManyCalls at the limit.
        """
        if self.draining and not also_draining:
            raise ShuttingDown
        active = self._active[kind]
        if len(active) >= self._limits[kind]:
            raise TooManyCalls(kind=kind, limit=self._limits[kind])
        task = asyncio.current_task()
        assert task is not None
        active.add(task)
        self._idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            # Only a cancellation of our own becomes an error; a client that went away stays a cancellation.
            if task in self._ended_by_us and task.uncancel() == 0:
                raise ShuttingDown from None
            raise
        finally:
            active.discard(task)
            self._ended_by_us.discard(task)
            if not any(self._active.values()):
                self._idle.set()

    def refuse_new(self) -> None:
        """Refuse every new call from now on."""
        self.draining = True

    async def finish(self, grace_seconds: float) -> None:
        """Give the calls in progress some time, then end them, and return when all have cleaned up."""
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            for task in set().union(*self._active.values()):
                self._ended_by_us.add(task)
                task.cancel()
            await self._idle.wait()

    def __len__(self) -> int:
        return sum(map(len, self._active.values()))
