"""Contents and the rows that name them: files, and parts of uploads.

A row and a blob must never miss each other: there is no row without its blob, also after a crash at any point. A blob
is therefore kept before its row is written, and deleted after its last row is. What a crash leaves between the two is
a blob without a row, which the next start sweeps away. Within a process, a lock for each content keeps whoever stores
it from finding the blob that a deletion is about to take.
"""

import asyncio
import errno
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from ..errors import StorageFull
from ..store import files
from ..store.database import Database
from ..store.writer import Transaction
from ..uninterrupted import to_the_end
from .blobs import BlobReader, BlobStore, StagedBlob

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
#: Locks that all contents share: two contents with the same first digits wait for each other, for a moment.
_LOCKS = 256


class Contents:
    """Stores and deletes contents together with their rows. One instance owns a blob store."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def store(
        self,
        chunks: AsyncIterable[bytes],
        *,
        limit_bytes: int,
        check: Callable[[StagedBlob], None],
        insert: Callable[[Transaction, StagedBlob], T],
    ) -> T:
        """Receive a content and write the row that names it; nothing is left of one that does not come to its end.

        Args:
            chunks: the content.
            limit_bytes: the most it may have.
            check: raises when what was received is not to be kept.
            insert: writes the row.

        Raises FileTooLarge, StorageFull, and what the arguments raise.
        """
        try:
            async with self._blobs.stage(chunks, limit_bytes=limit_bytes) as staged:
                check(staged)
                # It holds a lock that must not be let go while a thread still links a blob.
                return await to_the_end(self._keep(staged, insert))
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise StorageFull from error
            raise

    async def _keep(self, staged: StagedBlob, insert: Callable[[Transaction, StagedBlob], T]) -> T:
        async with self.lock(staged.sha256):
            await staged.keep()
            try:
                return await self._database.write(lambda tx: insert(tx, staged))
            except BaseException:
                await self._drop_unused(staged.sha256)
                raise

    async def read(self, sha256: str, size_bytes: int) -> BlobReader:
        """All of a content. FileNotFoundError when it is not there (any more)."""
        return await self._blobs.open(sha256, offset_bytes=0, length_bytes=size_bytes)

    def lock(self, sha256: str) -> asyncio.Lock:
        """To be held while rows of a content are deleted together with their blob."""
        return self._locks[int(sha256[:2], 16)]

    async def drop_unused(self, contents: Iterable[str]) -> None:
        """Delete those blobs whose last rows are gone; all of them, though the caller is cancelled meanwhile."""
        await to_the_end(self._drop_each(contents))

    async def _drop_each(self, contents: Iterable[str]) -> None:
        for sha256 in contents:
            async with self.lock(sha256):
                await self._drop_unused(sha256)

    async def _drop_unused(self, sha256: str) -> None:
        """Its lock is held."""
        if not await self._database.read(lambda connection: files.is_blob_used(connection, sha256)):
            await self._blobs.delete(sha256)

    async def sweep(self) -> int:
        """Remove what a killed process left: content half-received, blobs without a row. Tells how many blobs.

        Nothing else may use them meanwhile.
        """
        await self._blobs.clear_staging()
        unused: list[str] = []
        total = 0
        async for batch in self._blobs.list_batches():
            unused += await self._database.read(partial(_unused, batch))
            total += len(batch)
        if unused and len(unused) == total:
            # Rather the wrong database than a crash at the very first file: nothing is worth losing everything.
            _log.warning("blobs kept, though the database knows none of them", blobs=total)
            return 0
        for sha256 in unused:
            await self._blobs.delete(sha256)
        return len(unused)


def _unused(batch: list[str], connection: Connection) -> list[str]:
    return [sha256 for sha256 in batch if not files.is_blob_used(connection, sha256)]
