"""The database: runs units of work, each a plain function, however many statements it has."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection, make_url

from ..errors import ShuttingDown
from . import migrations
from .backend import Backend
from .readers import ReaderThreads
from .succession import continue_stored_ids
from .writer import GroupCommitWriter, Transaction

__all__ = ["Database", "Transaction"]

T = TypeVar("T")


class Database:
    """An async context manager: entering migrates to the newest schema, leaving finishes what was submitted.

    It belongs to one event loop. Both calls raise DatabaseUnavailable when the disk is full, a lock is not to be had
    and the like; nothing is changed then. A closed database raises ShuttingDown.
    """

    def __init__(self, url: str, readers: int = 4, busy_seconds: float = 5.0) -> None:
        """Nothing is opened yet.

        Args:
            url: SQLAlchemy's: ``sqlite:////var/lib/afarensis/afarensis.db``. The directory must exist.
            readers: Threads that read.
            busy_seconds: How long a write waits for the lock of another process, such as a backup.
        """
        self._backend = Backend(make_url(url), readers, busy_seconds)
        self._reader_count = readers
        self._readers: ReaderThreads | None = None
        self._writer: GroupCommitWriter | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._prepare)
        loop = asyncio.get_running_loop()
        self._writer = GroupCommitWriter(self._backend, loop)
        self._readers = ReaderThreads(self._backend, loop, self._reader_count)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        closing = asyncio.ensure_future(self._close(writer, readers))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            # Being cancelled must not leave threads behind that still use the database.
            await closing
            raise

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads, in a reader's thread. It sees one snapshot: every commit before it, whole."""
        if self._readers is None:
            raise ShuttingDown
        result: T = await self._readers.submit(work)
        return result

    async def look(self, work: Callable[[Connection], T]) -> T:
        """Run one statement that finds a row by its key, on the event loop as long as the disk is fast enough for it.

        It sees every commit before it.
        """
        if self._readers is None:
            raise ShuttingDown
        return await self._readers.look(work)

    async def write(self, work: Callable[[Transaction], T], *, durable: bool = True, long: bool = False) -> T:
        """Run a unit that writes, and return once it is committed for good.

        One that need not be ``durable`` may be lost in a power cut, though not if the server crashes, and costs half.
        One that is ``long`` (more than a few milliseconds) is run in a thread; others may be, or on the event loop.

        Units run one after another, so one may read and then write what follows from it. A unit that raises changes
        nothing. Cancelling the call does not cancel the unit: it is done, whole, or not at all, as if never cancelled.
        """
        if self._writer is None:
            raise ShuttingDown
        result: T = await self._writer.submit(work, durable=durable, long=long)
        return result

    def _prepare(self) -> None:
        migrations.upgrade(self._backend)
        with self._backend.reading.connect() as connection:
            continue_stored_ids(connection)

    async def _close(self, writer: GroupCommitWriter | None, readers: ReaderThreads | None) -> None:
        if readers is not None:
            await asyncio.to_thread(readers.close)
        if writer is not None:
            await writer.close()
        self._backend.dispose()
