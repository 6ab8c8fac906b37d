"""How fast files come and go, beside bare streams that hash and write, or read and send, the same bytes."""

import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from afarensis import v1

from .. import processes
from ..contenders import Arena, Server
from ..floor import FILE_CHUNK, GIVE, TAKE
from ..report import Figure, Role, Series, ratio

_FULL_BYTES = 256 * 1024 * 1024
_TARGET = (">=", 0.8)
_MB = 1e6


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    size = max(FILE_CHUNK, int(_FULL_BYTES * min(1.0, arena.effort)) // FILE_CHUNK * FILE_CHUNK)
    told = f"{size / 2**20:.0f} MiB"
    uploads = Series(f"`UploadFile` of {told}, on the disk", Role.OURS, "MB/s")
    taken = Series("bare stream that hashes and writes as much, on the disk", Role.FLOOR, "MB/s")
    downloads = Series(f"`DownloadFile` of {told}, counted by a client", Role.OURS, "MB/s")
    given = Series("bare stream that reads and sends as much", Role.FLOOR, "MB/s")
    spent: dict[str, float] = {"uploaded": 0.0, "downloaded": 0.0}
    rounds = arena.times(5)
    # Where the server has its files.
    with tempfile.TemporaryDirectory(prefix="afarensis-bench-", dir=arena.server.data) as directory:
        for round_number in range(rounds + 1):
            path = Path(directory, str(round_number))
            # Other bytes each time: what is stored already would not be written again.
            chunk = os.urandom(FILE_CHUNK)
            before = processes.cpu(arena.server.pid)
            up, file_id = await _upload(arena.server, chunk, size)
            between = processes.cpu(arena.server.pid)
            down = await _download(arena.server, file_id, size)
            after = processes.cpu(arena.server.pid)
            take = await _take(arena.bare, path, chunk, size)
            give = await _give(arena.bare, path, size)
            _remove(path)
            await arena.server.files.DeleteFile(v1.DeleteFileRequest(file_id=file_id))
            if round_number == 0:
                continue
            for series, seconds in ((uploads, up), (taken, take), (downloads, down), (given, give)):
                series.rounds.append([size / _MB / seconds])
            for name, used in (("uploaded", between - before), ("downloaded", after - between)):
                spent[name] += used.user + used.system
    parts = [f"{seconds / rounds / size * 1e12:.0f} ms for a GB {name}" for name, seconds in spent.items()]
    yield Figure(
        "Transfer",
        [uploads, taken, downloads, given],
        [
            ratio("Transfer: our rate over the bare stream's, upload", uploads, taken, _TARGET),
            ratio("Transfer: our rate over the bare stream's, download", downloads, given, _TARGET),
        ],
        [f"Messages of {FILE_CHUNK // 1024} KiB. Processor time of the server: {', '.join(parts)}."],
    )


def _remove(path: Path) -> None:
    path.unlink()


async def _upload(server: Server, chunk: bytes, size: int) -> tuple[float, str]:
    async def parts() -> AsyncIterator[v1.UploadFileRequest]:
        yield v1.UploadFileRequest(
            metadata=v1.UploadFileMetadata(filename="a.bin", purpose=v1.FILE_PURPOSE_ASSISTANTS, size_bytes=size)
        )
        for _ in range(size // FILE_CHUNK):
            yield v1.UploadFileRequest(data=chunk)

    start = time.perf_counter()
    file = (await server.files.UploadFile(parts())).file
    return time.perf_counter() - start, file.id


async def _take(channel: grpc.aio.Channel, path: Path, chunk: bytes, size: int) -> float:
    async def parts() -> AsyncIterator[bytes | v1.UploadFileRequest]:
        yield bytes(path)
        for _ in range(size // FILE_CHUNK):
            yield v1.UploadFileRequest(data=chunk)

    # The client does the same as above, so that only the servers differ.
    take: grpc.aio.StreamUnaryMultiCallable[bytes | v1.UploadFileRequest, bytes] = channel.stream_unary(
        TAKE, request_serializer=lambda part: part if isinstance(part, bytes) else part.SerializeToString()
    )
    start = time.perf_counter()
    await take(parts())
    return time.perf_counter() - start


async def _download(server: Server, file_id: str, size: int) -> float:
    start, received = time.perf_counter(), 0
    async for part in server.files.DownloadFile(v1.DownloadFileRequest(file_id=file_id)):
        received += len(part.data)
    assert received == size, received
    return time.perf_counter() - start


async def _give(channel: grpc.aio.Channel, path: Path, size: int) -> float:
    # As above: the pieces become the same messages.
    give: grpc.aio.UnaryStreamMultiCallable[bytes, v1.DownloadFileResponse] = channel.unary_stream(
        GIVE, response_deserializer=lambda data: v1.DownloadFileResponse(data=data)
    )
    start, received = time.perf_counter(), 0
    async for part in give(bytes(path)):
        received += len(part.data)
    # What is written holds the few bytes that frame each piece, too.
    assert received >= size, received
    return time.perf_counter() - start
