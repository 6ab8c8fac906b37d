"""Interpreters that are forked and parked, so that opening a session does not wait for a fork."""

import asyncio
import logging
from collections import deque

from ..driver import SandboxUnavailable
from .interpreter import Interpreter
from .launcher import Launcher, Seat

_log = logging.getLogger(__name__)

#: Seconds that a refill waits while there is still one to take: who took one is about to run code in it, and forking
#: next to that would keep both processors of a small machine from it.
_REST_SECONDS = 0.05


class Pool:
    """Keeps ``size`` interpreters ready; one task refills it, after each that is taken."""

    def __init__(self, launcher: Launcher, size: int) -> None:
        self._launcher = launcher
        self._size = size
        self._ready: deque[tuple[Seat, Interpreter]] = deque()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._refilling = asyncio.create_task(self._refill(), name="sandbox-pool")

    async def take(self) -> tuple[Seat, Interpreter]:
        """Take a seat with a parked interpreter, from the pool or, when it is empty, a new one."""
        while self._ready:
            seat, interpreter = self._ready.popleft()
            if interpreter.alive:
                return seat, interpreter
            await self._discard(seat, interpreter)
        return await self._make()

    def refill(self) -> None:
        """Make up for what was taken. Best when a session is open: forking at the same time would slow it down."""
        self._wanted.set()

    async def close(self) -> None:
        """Stop refilling and end what is parked."""
        self._refilling.cancel()
        await asyncio.wait([self._refilling])
        for seat, interpreter in self._ready:
            await self._discard(seat, interpreter)
        self._ready.clear()

    async def _make(self) -> tuple[Seat, Interpreter]:
        seat = self._launcher.take_seat()
        try:
            return seat, await self._launcher.spawn(seat)
        except BaseException:
            self._launcher.release_seat(seat)
            raise

    async def _discard(self, seat: Seat, interpreter: Interpreter) -> None:
        await interpreter.end()
        self._launcher.release_seat(seat)

    async def _refill(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._ready:
                await asyncio.sleep(_REST_SECONDS)
            try:
                while len(self._ready) < self._size:
                    self._ready.append(await self._make())
            except (SandboxUnavailable, OSError) as error:
                # Who opens a session next meets the same trouble, and is told.
                _log.warning("no interpreter could be made ready: %s", error)
