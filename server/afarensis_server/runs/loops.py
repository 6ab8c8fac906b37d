"""What goes on for as long as the server does."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ..errors import DatabaseUnavailable

_log = structlog.get_logger(__name__)

#: Seconds until a loop goes on after a defect.
_RETRY_SECONDS = 1.0


async def repeat(turn: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again, whatever happens: where a loop ended, no run would ever be begun, or end, again."""
    while True:
        try:
            await turn()
        except DatabaseUnavailable as error:
            _log.warning("runs wait for the database", error=str(error))
            await asyncio.sleep(error.retry_seconds)
        except Exception:
            _log.exception("runs held up")
            await asyncio.sleep(_RETRY_SECONDS)


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or this many seconds have passed."""
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            await event.wait()
    except TimeoutError:
        return
