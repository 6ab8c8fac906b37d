"""How a session of any driver is closed, and kept from use after that."""

import asyncio
from abc import ABC, abstractmethod

from ..driver import SandboxUnavailable


class ClosableSession(ABC):
    """The part of a ``SandboxSession`` that ends it: once and wholly, whoever asks and however often."""

    def __init__(self) -> None:
        #: Sees code to its end whose reader went away.
        self._settling: asyncio.Task[None] | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the session; see ``SandboxSession``."""
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.create_task(self._close(), name="sandbox-close")
        # Who waits may be cancelled; half a close would keep the place for ever.
        await asyncio.shield(self._closing)

    @abstractmethod
    async def _leave(self) -> None:
        """Let go of the place that the session lives in."""

    async def _close(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.wait([self._settling])
        await self._leave()

    def _check_open(self) -> None:
        """Raises SandboxUnavailable."""
        if self._closed:
            raise SandboxUnavailable("the session is closed")

    async def _settle(self) -> None:
        """Wait for code whose reader went away. Raises SandboxUnavailable."""
        self._check_open()
        if self._settling is not None:
            await asyncio.shield(self._settling)
            self._settling = None
