"""Counts the calls in progress: for their limits, and to end them when the server drains."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

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
        #: Set when none is left, for who waits for that.
        self._finished: asyncio.Event | None = None
        #: No new calls are taken, and those in progress are about to end.
        self.draining = False

    def track(self, kind: str, *, also_draining: bool = False) -> "Tracked":
        """Count the current task as a call of a kind (calls or streams) while it lasts: a context manager.

        Raises ShuttingDown when the server drains, also into a call that was in progress and got no more time, and
        TooManyCalls at the limit.
        """
        return Tracked(self, kind, also_draining=also_draining)

    def begin(self, kind: str, task: asyncio.Task[object], *, also_draining: bool) -> None:
        """Count a task as a call. Raises ShuttingDown, TooManyCalls."""
        if self.draining and not also_draining:
            raise ShuttingDown
        active = self._active[kind]
        if len(active) >= self._limits[kind]:
            raise TooManyCalls(kind=kind, limit=self._limits[kind])
        active.add(task)

    def move(self, task: asyncio.Task[object], kind: str, to: str, *, also_draining: bool) -> None:
        """Count a call as one of another kind. Raises ShuttingDown, TooManyCalls, and has changed nothing then."""
        self.begin(to, task, also_draining=also_draining)
        self._active[kind].discard(task)

    def end(self, kind: str, task: asyncio.Task[object]) -> bool:
        """Count a task no longer; whether it was ended here, since the server drains."""
        self._active[kind].discard(task)
        was_ended = task in self._ended_by_us
        self._ended_by_us.discard(task)
        if self._finished is not None and not len(self):
            self._finished.set()
        return was_ended

    def refuse_new(self) -> None:
        """Refuse every new call from now on."""
        self.draining = True

    async def finish(self, grace_seconds: float) -> None:
        """Give the calls in progress some time, then end them, and return when all have cleaned up."""
        if not len(self):
            return
        self._finished = asyncio.Event()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._finished.wait()
        except TimeoutError:
            for task in set().union(*self._active.values()):
                self._ended_by_us.add(task)
                task.cancel()
            await self._finished.wait()

    def __len__(self) -> int:
        return sum(map(len, self._active.values()))


class Tracked:
    """One call while it is in progress."""

    # Every call is one: a generator would take three times as long.
    __slots__ = ("_also_draining", "_calls", "_kind", "_task")

    def __init__(self, calls: Calls, kind: str, *, also_draining: bool) -> None:
        self._calls = calls
        self._kind = kind
        self._also_draining = also_draining
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._calls.begin(self._kind, task, also_draining=self._also_draining)
        self._task = task
        return self

    def become(self, kind: str) -> None:
        """Go on as a call of this kind. Raises ShuttingDown, TooManyCalls, and is what it was then."""
        assert self._task is not None
        if kind != self._kind:
            self._calls.move(self._task, self._kind, kind, also_draining=self._also_draining)
            self._kind = kind

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._task
        assert task is not None
        was_ended = self._calls.end(self._kind, task)
        # Only a cancellation of our own becomes an error; a client that went away stays a cancellation.
        if was_ended and isinstance(error, asyncio.CancelledError) and task.uncancel() == 0:
            raise ShuttingDown from None
