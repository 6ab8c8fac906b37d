"""How fast the server reads what comes in crumbs: code that writes single bytes must not take the server's time.

An honest program makes a few hundred small writes and frames, and is read at once. Beyond that, the server gives one
execution a share of its time; the code waits for the rest, as it does for any reader that is slow.
"""

import asyncio
import time

#: Reads of less than this many bytes are crumbs, and so is every frame.
_CRUMB_BYTES = 4 * 1024
#: Crumbs of an execution that are taken at once.
_FREE_CRUMBS = 1_000
#: Seconds of waiting for each second of work: a quarter of a core is what an execution may take.
_REST = 3.0
#: Seconds of work around each read that cannot be measured here.
_OVERHEAD_SECONDS = 0.00005
#: Seconds of waiting that gather before they are waited for, since timers are coarse; and what is waited at most.
_LEAST_SECONDS = 0.005
_MOST_SECONDS = 0.1


class Pace:
    """Counts the crumbs of one execution, and waits when it is time to."""

    def __init__(self) -> None:
        self._crumbs = 0
        self._counted = 0
        self._owed = 0.0

    def count(self, size_bytes: int) -> None:
        """Take note of a read, or of a frame, whose size does not matter (0)."""
        if size_bytes < _CRUMB_BYTES:
            self._crumbs += 1

    def worked(self, began: float) -> None:
        """Measure the work of one round of reading, which began then by the monotonic clock."""
        if self._crumbs > max(self._counted, _FREE_CRUMBS):
            self._owed += _REST * (time.monotonic() - began + _OVERHEAD_SECONDS)
        self._counted = self._crumbs

    async def keep(self) -> None:
        """Wait as long as the rounds so far ask for."""
        if self._owed >= _LEAST_SECONDS:
            owed, self._owed = min(self._owed, _MOST_SECONDS), 0.0
            await asyncio.sleep(owed)
