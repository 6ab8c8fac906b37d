"""Takes things away when their time is over."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog

from .. import clock
from ..errors import DatabaseUnavailable

_log = structlog.get_logger(__name__)

#: Seconds after which it is tried again when it failed.
_RETRY_SECONDS = 60.0


class Expiry:
    """An async context manager: until it is left, what expires is taken away, then and not much later.

    Args:
        noun: what it is, in the plural.
        take_away: takes away all that expired until a time.
        upcoming: when the next of them expires after a time; None when none is to.
    """

    def __init__(
        self,
        noun: str,
        take_away: Callable[[datetime], Awaitable[object]],
        upcoming: Callable[[datetime], Awaitable[datetime | None]],
    ) -> None:
        self._noun = noun
        self._take_away = take_away
        self._upcoming = upcoming
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"{self._noun}-expiry")
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()  # a defect that ended it

    def changed(self) -> None:
        """To be called when there is something that may expire before the others."""
        self._changed.set()

    async def _run(self) -> None:
        while True:
            time = clock.now()
            try:
                await self._take_away(time)
                upcoming = await self._upcoming(time)
                seconds = None if upcoming is None else (upcoming - clock.now()).total_seconds()
            except (DatabaseUnavailable, OSError) as error:
                # They are gone for everybody already; only their space is not.
                _log.warning(f"expired {self._noun} not deleted", error=str(error))
                seconds = _RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            self._changed.clear()
