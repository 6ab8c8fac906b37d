"""The database: runs units of work, each a plain function that makes one thread hop, however many statements it has."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import DBAPIError

from ..errors import ShuttingDown
from . import migrations
from .backend import Backend
from .writer import GroupCommitWriter, Transaction

__all__ = ["Database", "Transaction"]

T = TypeVar("T")


class Database:
    """An async context manager: entering migrates to the newest schema, leaving finishes what was submitted.

    It belongs to one event loop. Both calls raise DatabaseUnavailable when the disk is full, a lock is not to be had
    and the like; nothing is changed then. A closed database raises ShuttingDown.
    """

    def __init__(self, url: str, readers: int = 4) -> None:
        """``url`` is SQLAlchemy's (``sqlite:////var/lib/afarensis/afarensis.db``); the directory must exist."""
        self._backend = Backend(make_url(url), readers)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="store-read")
        self._writer: GroupCommitWriter | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(migrations.upgrade, self._backend.migrating)
        self._writer = GroupCommitWriter(self._backend, asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        closing = asyncio.ensure_future(asyncio.to_thread(self._close, writer))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            # Being cancelled must not leave threads behind that still use the database.
            await closing
            raise

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a unit that only reads, in a reader's thread. It sees one snapshot: every commit before it, whole."""
        if self._writer is None:
            raise ShuttingDown
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run a unit that writes, and return once it is committed for good.

        Units run one after another, so one may read and then write what follows from it. A unit that raises changes
        nothing. Cancelling the call does not cancel the unit: it is done, whole, or not at all, as if never cancelled.
        """
        if self._writer is None:
            raise ShuttingDown
        result: T = await self._writer.submit(work)
        return result

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._backend.reading.connect() as connection:
                return work(connection)
        except (DBAPIError, StopIteration) as error:
            raise self._backend.translate(error) from error

    def _close(self, writer: GroupCommitWriter | None) -> None:
        self._readers.shutdown()
        if writer is not None:
            writer.close()
        self._backend.dispose()
