"""The newest events of a log in memory, and those who wait for more."""

import asyncio
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..errors import CursorPastEnd, EventsTrimmed

#: Bytes of the newest events of one log that are remembered, as they are stored, at least and at most: a reader who has
#: fallen behind what is remembered costs twice as much. From so many logs on, each has the least.
_LEAST_BYTES = 1024 * 1024
_MOST_BYTES = 8 * 1024 * 1024
FEW_LOGS = 64
#: Up to so many, each has the most.
LOGS_WITH_MOST = FEW_LOGS * _LEAST_BYTES // _MOST_BYTES


class Logged(Protocol):
    """An event that has its place in a log."""

    @property
    def sequence(self) -> int: ...
    @property
    def type(self) -> StrEnum: ...


E = TypeVar("E", bound=Logged)


class LogState(NamedTuple):
    """How far a log has come."""

    last_sequence: int
    #: Whether the event ``last_sequence`` is the one that ended the log.
    ended: bool
    #: The last event that is no longer kept; 0 when all are.
    trimmed_sequence: int = 0

    def check(self, cursor: int) -> None:
        """Raise CursorPastEnd or EventsTrimmed where nobody can read on behind this cursor."""
        if cursor > self.last_sequence:
            raise CursorPastEnd(after_sequence=cursor, last_sequence=self.last_sequence)
        if cursor < self.trimmed_sequence:
            raise EventsTrimmed(oldest_sequence=self.trimmed_sequence + 1)


class Waiters:
    """Readers that wait for something to happen, each with a future of its own."""

    __slots__ = ("__weakref__", "_futures")

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[bool]] = set()

    def __bool__(self) -> bool:
        """Whether a reader waits, or is about to."""
        return bool(self._futures)

    def listening(self) -> "Listening":
        """A future, for one reader, that becomes true with the next `wake`: a context manager."""
        return Listening(self._futures)

    def wake(self) -> None:
        if self._futures:
            futures = list(self._futures)
            self._futures.clear()
            for future in futures:
                _resolve(future, True)


class Listening:
    """One reader among those that wait."""

    # Every stream of every call begins with one: a generator would take three times as long.
    __slots__ = ("_future", "_futures")

    def __init__(self, futures: set[asyncio.Future[bool]]) -> None:
        self._futures = futures
        self._future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> asyncio.Future[bool]:
        self._futures.add(self._future)
        return self._future

    def __exit__(self, *_: object) -> None:
        self._futures.discard(self._future)


async def within(future: asyncio.Future[bool], seconds: float) -> bool:
    """What the future of a reader becomes; False if it takes longer than this."""
    timer = asyncio.get_running_loop().call_later(seconds, _resolve, future, False)
    try:
        return await future
    finally:
        timer.cancel()


def _resolve(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


class Tail(Generic[E]):
    """The newest events of one log, as far as they were appended here; it lives as long as somebody holds it."""

    __slots__ = ("__weakref__", "_events", "_size", "state", "waiters")

    def __init__(self) -> None:
        self._events: deque[tuple[E, int]] = deque()
        self._size = 0
        #: None while nothing has been appended here: only the table knows.
        self.state: LogState | None = None
        self.waiters = Waiters()

    def add(self, events: Sequence[E], sizes: Sequence[int], ended: bool, logs: int = 1) -> None:
        """Take what was appended, with the size of each event in bytes, where so many logs have a tail."""
        first = events[0].sequence
        if self.state is not None and self.state.last_sequence + 1 != first:
            self.forget()  # another server appended in between
        self._events.extend(zip(events, sizes, strict=True))
        self._size += sum(sizes)
        self.state = LogState(events[-1].sequence, ended)
        self.share(logs)

    def share(self, logs: int) -> None:
        """Remember no more than one of so many logs may."""
        most = max(_LEAST_BYTES, min(_MOST_BYTES, FEW_LOGS * _LEAST_BYTES // logs))
        while self._size > most:
            self._size -= self._events.popleft()[1]

    def forget(self) -> None:
        self._events.clear()
        self._size = 0
        self.state = None

    def after(self, sequence: int, most: int | None = None) -> list[E] | None:
        """The events behind a cursor, at most so many; None when only the table knows them."""
        if self.state is None or sequence > self.state.last_sequence:
            return None
        missing = self.state.last_sequence - sequence
        first = len(self._events) - missing
        if first < 0:
            return None
        if most is not None and missing > most:
            return [self._events[index][0] for index in range(first, first + most)]
        # From the end: a reader who keeps up is told the last ones, of many.
        newest = [event for event, _ in islice(reversed(self._events), missing)]
        newest.reverse()
        return newest
