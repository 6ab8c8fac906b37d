import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from afarensis_server.errors import FileTooLarge
from afarensis_server.files.blobs import READ_BYTES, DirectoryBlobs, _DirectoryReader

LIMIT = 64 * 1024 * 1024


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "blobs")


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def keep(blobs: DirectoryBlobs, *chunks: bytes) -> str:
    async with blobs.stage(stream(*chunks), limit_bytes=LIMIT) as staged:
        await staged.keep()
        return staged.sha256


async def read(blobs: DirectoryBlobs, sha256: str, offset: int, length: int) -> bytes:
    return b"".join([chunk async for chunk in await blobs.open(sha256, offset_bytes=offset, length_bytes=length)])


@pytest.mark.parametrize(
    "chunks",
    [[], [b""], [b"a"], [b"ab", b"", b"c"], [os.urandom(65_536)] * 33, [os.urandom(3_000_000)] * 3],
    ids=["none", "empty", "byte", "small", "many", "large"],
)
async def test_kept_blob_is_what_was_sent(blobs: DirectoryBlobs, tmp_path: Path, chunks: Iterable[bytes]) -> None:
    content = b"".join(chunks)
    async with blobs.stage(stream(*chunks), limit_bytes=LIMIT) as staged:
        assert (staged.sha256, staged.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        await staged.keep()
    assert blobs.path(staged.sha256).read_bytes() == content
    assert await read(blobs, staged.sha256, 0, len(content)) == content
    assert files_below(tmp_path) == [blobs.path(staged.sha256)]


async def test_nothing_is_left_of_what_is_not_kept(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    async with blobs.stage(stream(b"content"), limit_bytes=LIMIT):
        pass
    assert files_below(tmp_path) == []


async def test_nothing_is_left_of_a_stream_that_breaks(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(5_000_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        async with blobs.stage(broken(), limit_bytes=LIMIT):
            pytest.fail("a broken stream was staged")
    assert files_below(tmp_path) == []


async def test_nothing_is_left_of_a_cancelled_upload(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    taken = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1024 * 1024)
            taken.set()
            await asyncio.sleep(0)

    async def upload() -> None:
        async with blobs.stage(endless(), limit_bytes=1 << 40):
            pytest.fail("an endless stream ended")

    task = asyncio.create_task(upload())
    await taken.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert files_below(tmp_path) == []


async def test_content_above_the_limit_is_refused_before_it_ends(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    async def more() -> AsyncIterator[bytes]:
        yield bytes(10)
        yield b"x"
        pytest.fail("read on past the limit")

    with pytest.raises(FileTooLarge, match="limit of 10 bytes"):
        async with blobs.stage(more(), limit_bytes=10):
            pass
    assert files_below(tmp_path) == []


async def test_equal_contents_share_one_file(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    first, second = await asyncio.gather(keep(blobs, b"same"), keep(blobs, b"sa", b"me"))
    assert first == second
    assert files_below(tmp_path) == [blobs.path(first)]
    assert blobs.path(first).stat().st_nlink == 1


async def test_only_the_server_reaches_blobs_and_guests_may_write_their_view(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir(mode=0o755)
    blobs = DirectoryBlobs(tmp_path / "blobs")
    sha256 = await keep(blobs, b"content")
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700
    assert stat.S_IMODE(blobs.path(sha256).stat().st_mode) == 0o666


def evict(path: Path) -> None:
    """Have the kernel forget what it has of a file in memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_what_is_not_in_memory_is_read_as_well(blobs: DirectoryBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[bool] = []
    read_at_once = _DirectoryReader._read_at_once

    def noted(reader: _DirectoryReader) -> bytes:
        chunk = read_at_once(reader)
        at_once.append(bool(chunk))
        return chunk

    monkeypatch.setattr(_DirectoryReader, "_read_at_once", noted)
    content = os.urandom(20 * READ_BYTES + 10)
    sha256 = await keep(blobs, content)
    assert await read(blobs, sha256, 0, len(content)) == content
    assert all(at_once[:-1])  # and then there is no more
    at_once.clear()
    evict(blobs.path(sha256))
    assert await read(blobs, sha256, 0, len(content)) == content
    assert not at_once[0]


async def test_reading_begins_and_ends_where_asked(blobs: DirectoryBlobs) -> None:
    content = os.urandom(2 * READ_BYTES + 10)
    sha256 = await keep(blobs, content)
    assert await read(blobs, sha256, 7, 9) == content[7:16]
    assert await read(blobs, sha256, READ_BYTES, READ_BYTES + 10) == content[READ_BYTES:]
    assert await read(blobs, sha256, len(content), 0) == b""


async def test_open_blob_is_read_to_its_end_after_its_deletion(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    content = os.urandom(READ_BYTES + 1)
    sha256 = await keep(blobs, content)
    reader = await blobs.open(sha256, offset_bytes=0, length_bytes=len(content))
    begun = await anext(reader)
    await blobs.delete(sha256)
    assert files_below(tmp_path) == []
    assert begun + b"".join([chunk async for chunk in reader]) == content


async def test_reader_lets_go_when_closed_or_forgotten(blobs: DirectoryBlobs) -> None:
    sha256 = await keep(blobs, b"content")
    before = open_files()
    closed = await blobs.open(sha256, offset_bytes=0, length_bytes=7)
    await closed.aclose()
    assert [chunk async for chunk in closed] == []
    forgotten = await blobs.open(sha256, offset_bytes=0, length_bytes=7)
    del forgotten
    await read(blobs, sha256, 0, 7)
    assert open_files() == before


async def test_reader_that_is_closed_in_the_middle_lets_go(blobs: DirectoryBlobs) -> None:
    """Also of what a thread reads ahead for it just then, or for a caller that was cancelled."""
    sha256 = await keep(blobs, os.urandom(20 * READ_BYTES))
    before = open_files()
    for cancelled in (False, True):
        evict(blobs.path(sha256))
        reader = await blobs.open(sha256, offset_bytes=0, length_bytes=20 * READ_BYTES)
        if cancelled:
            taking = asyncio.ensure_future(anext(reader))
            await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
        else:
            await anext(reader)
        await reader.aclose()
        async with asyncio.timeout(10.0):
            while open_files() > before:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.001)
        assert [chunk async for chunk in reader] == []


async def test_shorter_blob_than_recorded_is_not_passed_off_as_whole(blobs: DirectoryBlobs) -> None:
    sha256 = await keep(blobs, b"content")
    with pytest.raises(OSError, match="shorter than its record"):
        await read(blobs, sha256, 0, 8)


async def test_missing_blob_is_not_found(blobs: DirectoryBlobs) -> None:
    missing = hashlib.sha256(b"never kept").hexdigest()
    with pytest.raises(FileNotFoundError):
        await blobs.open(missing, offset_bytes=0, length_bytes=1)
    await blobs.delete(missing)


async def test_start_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    sha256 = await keep(blobs, b"content")
    (tmp_path / "incoming" / "half-received").write_bytes(b"conte")
    await blobs.clear_staging()
    assert files_below(tmp_path) == [blobs.path(sha256)]
    assert [names async for names in blobs.list_batches()] == [[sha256]]
