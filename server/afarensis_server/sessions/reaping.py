"""Ends sessions whose time has come."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from ..clock import now
from .live import LiveSession

_log = structlog.get_logger(__name__)


class Reaper:
    """Watches the open sessions, and sleeps until the next one is due."""

    def __init__(self, sessions: Mapping[str, LiveSession], expire: Callable[[LiveSession], Awaitable[object]]) -> None:
        #: The open sessions, as they come and go.
        self._sessions = sessions
        self._expire = expire
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._reap(), name="session reaper")

    async def stop(self) -> None:
        """End no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def look_again(self) -> None:
        """There is a session that was not there when it last looked."""
        self._changed.set()

    def touch(self, live: LiveSession) -> None:
        """Take note that a session is used, which puts off its end."""
        live.touch()
        if live.passed_by:
            live.passed_by = False
            self._changed.set()

    async def _reap(self) -> None:
        """End what is due; a session that runs code is left to finish."""
        while True:
            self._changed.clear()
            moment = now()
            due = [live for live in self._sessions.values() if live.row.expire_time <= moment]
            for live in due:
                if live.execution_id:
                    live.passed_by = True
                elif live.ending is None:
                    await self._end(live)
            times = [live.row.expire_time for live in self._sessions.values() if not live.passed_by]
            delay = min(((time - now()).total_seconds() for time in times), default=None)
            try:
                async with asyncio.timeout(None if delay is None else max(delay, 0.0)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _end(self, live: LiveSession) -> None:
        try:
            await self._expire(live)
        except Exception:
            # The next ones have to end all the same. What is left of this one ends with the server.
            _log.exception("session could not be ended", session_id=live.id)
