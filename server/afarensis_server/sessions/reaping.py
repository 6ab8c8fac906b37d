"""Ends sessions whose time has come."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import structlog

from ..clock import now
from .live import LiveSession

_log = structlog.get_logger(__name__)

#: Looks at sessions that are gone, which may stay beyond as many as there are sessions.
_SPARE_LOOKS = 64


class Reaper:
    """Watches the open sessions, and sleeps until the next one may be due."""

    def __init__(self, sessions: Mapping[str, LiveSession], expire: Callable[[LiveSession], Awaitable[object]]) -> None:
        #: The open sessions, as they come and go.
        self._sessions = sessions
        self._expire = expire
        #: A heap of times at which to look at a session, by its id. Use puts off its end, which is seen only then: so
        #: neither an execution nor an opening costs more beside thousands of idle sessions.
        self._looks: list[tuple[datetime, str]] = []
        self._is_sooner = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._reap(), name="session reaper")

    async def stop(self) -> None:
        """End no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def watch(self, live: LiveSession) -> None:
        """End this session, which is open, when its time has come."""
        if len(self._looks) > 2 * len(self._sessions) + _SPARE_LOOKS:
            # Those of sessions that were closed would stay until their time had come.
            self._looks = [look for look in self._looks if look[1] in self._sessions]
            heapq.heapify(self._looks)
        look = (live.expire_time, live.id)
        heapq.heappush(self._looks, look)
        if self._looks[0] is look:
            self._is_sooner.set()

    def touch(self, live: LiveSession) -> None:
        """Take note that a session is used, which puts off its end."""
        live.touch()
        if live.passed_by:
            live.passed_by = False
            self.watch(live)

    async def _reap(self) -> None:
        """End what is due; a session that runs code is left to finish."""
        while True:
            self._is_sooner.clear()
            while self._looks and self._looks[0][0] <= now():
                _, session_id = heapq.heappop(self._looks)
                live = self._sessions.get(session_id)
                if live is None:
                    continue
                if live.expire_time > now():
                    self.watch(live)
                elif live.execution_id:
                    live.passed_by = True
                else:
                    await self._end(live)
            delay = (self._looks[0][0] - now()).total_seconds() if self._looks else None
            try:
                async with asyncio.timeout(None if delay is None else max(delay, 0.0)):
                    await self._is_sooner.wait()
            except TimeoutError:
                continue

    async def _end(self, live: LiveSession) -> None:
        try:
            await self._expire(live)
        except Exception:
            # The next ones have to end all the same. What is left of this one ends with the server.
            _log.exception("session could not be ended", session_id=live.id)
