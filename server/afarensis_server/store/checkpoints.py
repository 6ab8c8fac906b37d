"""Moves what the write-ahead log holds into the database, beside those who write and not in their time.

A checkpoint waits for the disk, twice. As part of a commit, which is how SQLite does it, that takes several times as
long as all else that a small call does. So a thread does it, with a connection of its own, and nobody waits. What is
written meanwhile stays in the log, which begins anew only when nothing of it is left: where there is no pause for that,
it grows, and the writer does one by itself now and then (`is_overdue`).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Connection

from .backend import Backend

#: Commits after which there is something to move.
_EVERY_COMMITS = 64
#: Commits during one checkpoint, and pages of the log (4 KiB each), from which on the writer sees to it.
_MOST_COMMITS = 512
_MOST_PAGES = 4_096


class Checkpoints:
    """Belongs to the event loop."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._loop = loop
        self._commits = 0
        #: Whether the log is so long that the next commit is to be one that moves it.
        self.is_overdue = False
        self._running: asyncio.Future[int] | None = None
        self._connection: Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-checkpoint")

    def committed(self) -> None:
        """Take note of a commit that left the log to us."""
        self._commits += 1
        if self._commits < _EVERY_COMMITS:
            return
        if self._running is None:
            self._commits = 0
            try:
                self._running = self._loop.run_in_executor(self._thread, self._move)
            except RuntimeError as error:  # the system has no thread left to give
                self._failed(error)
            else:
                self._running.add_done_callback(self._moved)
        elif self._commits >= _MOST_COMMITS:
            self.is_overdue = True

    def done(self) -> None:
        """Take note of a commit that moved the log."""
        self._commits = 0
        self.is_overdue = False

    async def close(self) -> None:
        """Finish what has begun. Nothing may be committed after this."""
        if self._running is not None:
            await asyncio.wait([self._running])
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.close()

    def _move(self) -> int:
        """Move what there is; the pages of the log. In the thread."""
        if self._connection is None:
            self._connection = self._backend.checkpointing.connect()
        return self._backend.checkpoint(self._connection)

    def _moved(self, running: asyncio.Future[int]) -> None:
        self._running = None
        if (error := running.exception()) is not None:
            self._failed(error)
        else:
            self.is_overdue = running.result() >= _MOST_PAGES

    def _failed(self, error: BaseException) -> None:
        # Nothing is lost: it is all in the log, and the writer is the next to try.
        self.is_overdue = True
        self._loop.call_exception_handler({"message": "A checkpoint failed", "exception": error})
