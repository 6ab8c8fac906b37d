"""What a large input file costs."""

import ctypes
import mmap
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

from afarensis import v1

from .. import processes
from ..contenders import Arena, Server
from ..report import Figure, Role, Series, ratio

_FULL_BYTES = 512 * 1024 * 1024
_CHUNK = 1024 * 1024
_NAME = "large.bin"
_READ = f"print(sum(len(part) for part in iter(lambda f=open('{_NAME}', 'rb'): f.read(1 << 20), b'')))"
_MB = 1e6


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    size = max(_CHUNK, int(_FULL_BYTES * min(1.0, arena.effort)))
    server = arena.server
    file_id = await _upload(server, size)
    (blob,) = (path for path in server.data.rglob("*") if path.is_file() and path.stat().st_size == size)
    attached = Series(f"`CreateSession` with a file of {size / 2**20:.0f} MiB", Role.OURS, "ms")
    without = Series("`CreateSession` without a file", Role.OURS, "ms")
    copied = Series("a copy of the file", Role.PEER, "ms")
    memory = Series("memory that attaching took", Role.OURS, "MB")
    for _ in range(arena.times(5)):
        times: dict[str, list[float]] = {"": [], file_id: []}
        used: list[float] = []
        for _ in range(4):
            for chosen, measured in times.items():
                before = processes.memory_in_use()
                start = time.perf_counter()
                session = await server.open(file_ids=[chosen] if chosen else [])
                measured.append((time.perf_counter() - start) * 1e3)
                if chosen:
                    used.append((processes.memory_in_use() - before) / _MB)
                await server.close(session)
        attached.rounds.append(times[file_id])
        without.rounds.append(times[""])
        memory.rounds.append([statistics.median(used)])
        copied.rounds.append([_copy(blob)])
    yield Figure(
        "Attach",
        [attached, without, copied, memory],
        [
            ratio("Attach: a copy's time over ours", copied, attached),
            ratio("Attach: with the file over without it", attached, without),
        ],
        await _page_cache(server, file_id, blob, size),
    )


async def _page_cache(server: Server, file_id: str, blob: Path, size: int) -> list[str]:
    """How the pages of the original fill while two sessions read what they see of it."""
    with blob.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    told = [f"{_resident(blob) / size:.0%} before"]
    growths = []
    for _ in range(2):
        session = await server.open(file_ids=[file_id])
        cached = processes.cached_bytes()
        start = time.perf_counter()
        assert await server.execute(session, _READ)
        told.append(f"{_resident(blob) / size:.0%} after a session read it in {time.perf_counter() - start:.2f} s")
        growths.append(f"{(processes.cached_bytes() - cached) / _MB:.0f} MB")
        await server.close(session)
    pages = f"Pages of the stored file that are in memory (`mincore`): {', '.join(told)}."
    return [f"{pages} The page cache grew by {growths[0]} for the first reader and by {growths[1]} for the second."]


async def _upload(server: Server, size: int) -> str:
    block = os.urandom(_CHUNK)

    async def parts() -> AsyncIterator[v1.UploadFileRequest]:
        yield v1.UploadFileRequest(
            metadata=v1.UploadFileMetadata(filename=_NAME, purpose=v1.FILE_PURPOSE_ASSISTANTS, size_bytes=size)
        )
        left = size
        while left:
            data = block[: min(left, _CHUNK)]
            left -= len(data)
            yield v1.UploadFileRequest(data=data)

    return (await server.files.UploadFile(parts())).file.id


def _copy(path: Path) -> float:
    copy = path.with_name("copy")
    start = time.perf_counter()
    shutil.copyfile(path, copy)
    milliseconds = (time.perf_counter() - start) * 1e3
    copy.unlink()
    return milliseconds


def _resident(path: Path) -> int:
    """Bytes of a file that are in the page cache."""
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    # Private, so that the buffer counts as writable, as ctypes wants it; nothing writes.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        place = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(place), ctypes.c_size_t(size), pages)
        del place  # a mapping that somebody points into cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
