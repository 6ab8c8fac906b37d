"""Places that are made ahead, so that opening a session waits for no fork and no mount."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ..driver import SandboxUnavailable, SessionLimits

_log = logging.getLogger(__name__)

#: Seconds that a refill waits while there is still one to take: who took one is about to run code in it, and forking
#: next to that would keep both processors of a small machine from it.
_REST_SECONDS = 0.05
#: Openings that are looked back on to tell what the next one will want.
_REMEMBERED = 8


class Place(Protocol):
    """What a session takes up: a driver's own."""

    @property
    def is_ready(self) -> bool:
        """Whether an interpreter waits for code."""

    def suits(self, limits: SessionLimits) -> bool:
        """Whether a session with these limits can have it."""

    async def furnish(self, *, ahead: bool) -> None:
        """Make it. Raises SandboxUnavailable: then leave it."""

    async def leave(self) -> None:
        """Let go of everything. May be repeated."""


AnyPlace = TypeVar("AnyPlace", bound=Place)


class Pool(Generic[AnyPlace]):
    """Keeps places ready, for the limits that are asked for most; one task refills it, after each that is taken."""

    def __init__(self, make: Callable[[SessionLimits], AnyPlace], size: int, usual: SessionLimits | None) -> None:
        self._make = make
        self._size = size
        self._ready: deque[AnyPlace] = deque()
        self._asked_for: deque[SessionLimits] = deque([usual] if usual is not None else (), maxlen=_REMEMBERED)
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._settled = asyncio.Event()
        self._refilling = asyncio.create_task(self._refill(), name="sandbox-pool")

    async def take(self, limits: SessionLimits) -> AnyPlace | None:
        """Take a place that a session with these limits can have; None when there is none."""
        self._asked_for.append(limits)
        for place in [place for place in self._ready if place.suits(limits)]:
            self._ready.remove(place)
            if place.is_ready:
                return place
            await place.leave()
        return None

    def refill(self) -> None:
        """Make up for what was taken. Best when a session is open: forking at the same time would slow it down."""
        self._settled.clear()
        self._wanted.set()

    async def settle(self) -> None:
        """Wait until the pool is as full as it can be made."""
        await self._settled.wait()

    async def close(self) -> None:
        """Stop refilling and end what is ready."""
        self._refilling.cancel()
        await asyncio.wait({self._refilling})
        await asyncio.gather(*(place.leave() for place in self._ready))
        self._ready.clear()

    async def _refill(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._ready:
                await asyncio.sleep(_REST_SECONDS)
            try:
                await self._fill()
            except (SandboxUnavailable, OSError) as error:
                # Who opens a session next meets the same trouble, and is told.
                _log.warning("no place could be made ready: %s", error)
            if not self._wanted.is_set():
                self._settled.set()

    async def _fill(self) -> None:
        while self._asked_for:
            limits = Counter(self._asked_for).most_common(1)[0][0]
            for place in [place for place in self._ready if not place.suits(limits)]:
                self._ready.remove(place)
                await place.leave()
            if len(self._ready) >= self._size:
                return
            place = self._make(limits)
            try:
                await place.furnish(ahead=True)
            except BaseException:
                await place.leave()
                raise
            self._ready.append(place)
