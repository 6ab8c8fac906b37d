"""Where the bytes of files are kept: named by their SHA-256, so that equal contents take space once.

A blob appears under its name only when it is whole and on the disk. Staging and keeping are two steps, so that whoever
announced a digest or a size can be refused before anything is kept.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, Self

from ..errors import FileTooLarge

#: Bytes handed to a thread at once. A hop costs about 0.1 ms, which 64 KiB (the usual message) would not be worth.
_WRITE_BYTES = 1024 * 1024
#: Chunks handed to a thread at once: small ones must not gather in masses.
_WRITE_CHUNKS = 64
#: Bytes of one read, which is also one message of a download.
READ_BYTES = 256 * 1024
#: Reads that a thread makes at once; while they are sent, it makes as many more. Both are what a reader that stands
#: still costs in memory.
_READS = 2

_BLOB_NAME = re.compile(r"[0-9a-f]{64}")

# Sessions have blobs as the lower files of an overlay. Their guests run with uids of their own and may overwrite their
# view of a file only where its own mode lets others write; the overlay then copies the file and leaves the blob alone.
# What keeps everybody else away from the blob itself is the mode of the directory above it.
_BLOB_MODE = 0o666
_DIRECTORY_MODE = 0o700


class StagedBlob(Protocol):
    """Bytes that are received and hashed, but not kept yet."""

    @property
    def sha256(self) -> str:
        """64 lower-case hexadecimal digits."""
        ...

    @property
    def size_bytes(self) -> int: ...

    async def keep(self) -> None:
        """Make it a blob, on the disk when this returns. A blob of the same content may exist already."""
        ...


class BlobReader(Protocol):
    """Chunks of an open blob, none of them empty. The blob may be deleted meanwhile: reading goes on to its end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Let go of the blob before its end."""
        ...


class BlobStore(Protocol):
    """Keeps blobs. Callers see to it that no blob is deleted while somebody else keeps the same content."""

    def stage(self, chunks: AsyncIterable[bytes], *, limit_bytes: int) -> AbstractAsyncContextManager[StagedBlob]:
        """Receive bytes; what is not kept is gone when the context is left. FileTooLarge as soon as it is known."""
        ...

    async def open(self, sha256: str, *, offset_bytes: int, length_bytes: int) -> BlobReader:
        """Read a range of a blob, which must have that many bytes. FileNotFoundError when there is no such blob."""
        ...

    def path(self, sha256: str) -> Path:
        """Where sandboxes on this host find the blob. They link or read it, and never write to it."""
        ...

    async def delete(self, sha256: str) -> None:
        """Forget a blob; one that is not there is no error."""
        ...

    async def clear_staging(self) -> None:
        """Remove what a process that was killed has left half-received. Only for a start, before anything is staged."""
        ...

    def list_batches(self) -> AsyncIterator[list[str]]:
        """The SHA-256 of every blob, in batches."""
        ...


class DirectoryBlobs:
    """A BlobStore in a directory: ``<first two digits>/<sha256>``, and ``incoming/`` for what is being received.

    The directory belongs to one server process at a time. Sessions link blobs, so it must be on a file system with hard
    links, the same as the sandbox's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        directory.chmod(_DIRECTORY_MODE)
        self._incoming.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        for prefix in range(256):
            (directory / f"{prefix:02x}").mkdir(mode=_DIRECTORY_MODE, exist_ok=True)

    @contextlib.asynccontextmanager
    async def stage(self, chunks: AsyncIterable[bytes], *, limit_bytes: int) -> AsyncIterator["_Incoming"]:
        incoming = _Incoming(self, self._incoming / secrets.token_hex(16), limit_bytes)
        try:
            await incoming.receive(chunks)
            yield incoming
        finally:
            # In a thread, behind a write that may still run there; a caller that is cancelled again does not stop it.
            await asyncio.shield(asyncio.to_thread(incoming.discard))

    async def open(self, sha256: str, *, offset_bytes: int, length_bytes: int) -> "_DirectoryReader":
        return await asyncio.to_thread(_DirectoryReader, self.path(sha256), offset_bytes, length_bytes)

    def path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

    async def delete(self, sha256: str) -> None:
        await asyncio.to_thread(self.path(sha256).unlink, missing_ok=True)

    async def clear_staging(self) -> None:
        def clear() -> None:
            for left in self._incoming.iterdir():
                left.unlink()

        await asyncio.to_thread(clear)

    async def list_batches(self) -> AsyncIterator[list[str]]:
        for prefix in range(256):
            directory = self._directory / f"{prefix:02x}"
            names = await asyncio.to_thread(os.listdir, directory)
            if found := [name for name in names if _BLOB_NAME.fullmatch(name)]:
                yield found


class _Incoming:
    """A file that is being received, then perhaps kept. Its blocking methods run in threads, one at a time."""

    def __init__(self, blobs: DirectoryBlobs, path: Path, limit_bytes: int) -> None:
        self._blobs = blobs
        self._path = path
        self._limit_bytes = limit_bytes
        self._descriptor: int | None = None
        self._digest = hashlib.sha256()
        # A thread outlives the task that waited for it: discarding waits until it is done.
        self._lock = threading.Lock()
        self._discarded = False
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def receive(self, chunks: AsyncIterable[bytes]) -> None:
        """Hash and write in a thread while the next batch comes in; memory for two batches is all it takes."""
        batch: list[bytes] = []
        batch_bytes = 0
        writing: asyncio.Task[None] | None = None
        try:
            async for chunk in chunks:
                self.size_bytes += len(chunk)
                if self.size_bytes > self._limit_bytes:
                    raise FileTooLarge(limit_bytes=self._limit_bytes, hint="Nothing was stored.")
                batch.append(chunk)
                batch_bytes += len(chunk)
                if batch_bytes >= _WRITE_BYTES or len(batch) >= _WRITE_CHUNKS:
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(asyncio.to_thread(self._write, batch))
                    batch, batch_bytes = [], 0
        finally:
            if isinstance(chunks, AsyncGenerator):
                # Also when not all was taken: its source may be waiting to be let go.
                await chunks.aclose()
            if writing is not None:
                await writing
        # Perhaps of no bytes: then it makes the empty file.
        await asyncio.to_thread(self._write, batch)

    def _write(self, batch: list[bytes]) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            for chunk in batch:
                self._digest.update(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]

    async def keep(self) -> None:
        await asyncio.to_thread(self._link)

    def _link(self) -> None:
        final = self._blobs.path(self.sha256)
        with self._lock:
            if final.exists():
                return
            assert self._descriptor is not None
            os.fchmod(self._descriptor, _BLOB_MODE)
            os.fsync(self._descriptor)
            with contextlib.suppress(FileExistsError):
                final.hardlink_to(self._path)
            _sync_directory(final.parent)

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                self._path.unlink()


#: What is read without waiting goes through here: a fresh buffer for each read would cost page faults.
_buffer = memoryview(bytearray(READ_BYTES))


class _DirectoryReader:
    """Reads a range of an open file: at once what the kernel has in memory, the rest by a thread, a little ahead."""

    def __init__(self, path: Path, offset_bytes: int, length_bytes: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = offset_bytes
        self._end = offset_bytes + length_bytes
        self._chunks: deque[bytes] = deque()
        self._reading: asyncio.Future[list[bytes]] | None = None
        # A reader that is never iterated must not keep a deleted file on the disk.
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._chunks:
            if self._reading is None and (chunk := self._read_at_once()):
                return chunk
            reading = self._reading or self._read_on()
            if reading is None:
                self._close()
                raise StopAsyncIteration
            # A caller that is cancelled leaves the thread at it: `aclose` waits for that.
            self._chunks.extend(await asyncio.shield(reading))
            self._reading = None
            self._read_on()
        return self._chunks.popleft()

    async def aclose(self) -> None:
        self._offset = self._end
        self._chunks.clear()
        reading, self._reading = self._reading, None
        if reading is None:
            self._close()
        else:
            # Not before: the number of the descriptor would be another file's.
            reading.add_done_callback(self._abandon)

    def _abandon(self, reading: asyncio.Future[list[bytes]]) -> None:
        self._close()
        if not reading.cancelled():
            reading.exception()  # interests nobody any more

    def _read_at_once(self) -> bytes:
        """The next chunk, if that takes no waiting for a disk; empty otherwise.

        The way to a thread and back takes longer.
        """
        wanted = min(READ_BYTES, self._end - self._offset)
        try:
            count = os.preadv(self._descriptor, [_buffer[:wanted]], self._offset, os.RWF_NOWAIT)
        except OSError:
            return b""  # not in memory, or not a file system that can tell: the thread says if anything is wrong
        self._offset += count
        return bytes(_buffer[:count])

    def _read_on(self) -> asyncio.Future[list[bytes]] | None:
        """Have a thread make the next reads; None at the end."""
        size = min(_READS * READ_BYTES, self._end - self._offset)
        if size <= 0:
            return None
        self._reading = asyncio.get_running_loop().run_in_executor(None, self._read, self._offset, size)
        self._offset += size
        return self._reading

    def _read(self, offset: int, size: int) -> list[bytes]:
        chunks = []
        end = offset + size
        while offset < end:
            chunk = os.pread(self._descriptor, min(READ_BYTES, end - offset), offset)
            if not chunk:
                raise OSError(errno.EIO, "a blob is shorter than its record says")
            chunks.append(chunk)
            offset += len(chunk)
        return chunks


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
