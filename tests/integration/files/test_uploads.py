"""Uploads: when they end, and that rows and blobs never miss each other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from afarensis_server import clock
from afarensis_server.domain.uploads import Upload, UploadStatus
from afarensis_server.errors import TooManyUploads, UploadNotFound, UploadNotPending
from afarensis_server.files.service import Files, UploadHead
from afarensis_server.files.uploads import UploadLimits, Uploads
from afarensis_server.store import requests, tables
from afarensis_server.store import uploads as rows
from afarensis_server.store.database import Database

PROJECT = "default"
HEAD = UploadHead("data.txt", size_bytes=6)


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def blobs_in(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*"))


@pytest.fixture
def uploads(database: Database, files: Files) -> Uploads:
    return Uploads(database, files, UploadLimits())


async def expire_at(database: Database, time: datetime) -> None:
    """Have all uploads end then."""
    await database.write(lambda tx: tx.connection.execute(tables.uploads.update().values(expire_time=time)))


async def with_parts(uploads: Uploads, *contents: bytes) -> tuple[Upload, list[str]]:
    upload = await uploads.create(PROJECT, HEAD)
    return upload, [(await uploads.add_part(PROJECT, upload.id, stream(content))).id for content in contents]


async def until_empty(directory: Path) -> None:
    async with asyncio.timeout(10):
        while blobs_in(directory):
            await asyncio.to_thread(lambda: None)


async def test_upload_ends_when_its_time_is_over(
    database: Database, files: Files, uploads: Uploads, blob_directory: Path
) -> None:
    upload, parts = await with_parts(uploads, b"abc", b"def")
    end = clock.now() + timedelta(seconds=0.3)
    await expire_at(database, end)
    assert blobs_in(blob_directory) == 2
    async with Uploads(database, files, UploadLimits()):
        await until_empty(blob_directory)
    assert clock.now() >= end
    with pytest.raises(UploadNotPending, match="is expired"):
        await uploads.complete(PROJECT, upload.id, parts)


async def test_upload_is_seen_to_though_nothing_was_to_expire(database: Database, files: Files) -> None:
    async with Uploads(database, files, UploadLimits(seconds=0.05)) as uploads, asyncio.timeout(10):
        for _ in range(5):
            upload: Upload | None = await uploads.create(PROJECT, HEAD)
            while upload is not None and upload.status is not UploadStatus.EXPIRED:
                upload = await database.read(partial(rows.get, project=PROJECT, upload_id=upload.id))
            assert upload is not None


async def test_upload_that_is_not_swept_yet_has_ended_all_the_same(
    database: Database, files: Files, blob_directory: Path
) -> None:
    uploads = Uploads(database, files, UploadLimits(seconds=0))
    upload = await uploads.create(PROJECT, HEAD)
    for call in (
        uploads.add_part(PROJECT, upload.id, stream(b"abc")),
        uploads.complete(PROJECT, upload.id, []),
        uploads.cancel(PROJECT, upload.id),
    ):
        with pytest.raises(UploadNotPending, match="is expired"):
            await call
    assert blobs_in(blob_directory) == 0


async def test_upload_that_expired_while_the_server_was_down_ends_at_its_start(
    database: Database, files: Files, uploads: Uploads, blob_directory: Path
) -> None:
    upload, _ = await with_parts(uploads, b"abc", b"def")
    past = clock.now() - timedelta(seconds=1)
    assert await uploads.end_expired(upload.expire_time - timedelta(seconds=1)) == 0
    await expire_at(database, past)
    async with Uploads(database, files, UploadLimits()):
        await until_empty(blob_directory)


async def test_all_expired_uploads_end_however_many(database: Database, files: Files) -> None:
    uploads = Uploads(database, files, UploadLimits(seconds=0))
    await asyncio.gather(*(uploads.create(PROJECT, HEAD) for _ in range(250)))
    assert await uploads.end_expired(clock.now()) == 250


async def test_project_has_so_many_pending_uploads_at_most(database: Database, files: Files) -> None:
    uploads = Uploads(database, files, UploadLimits(pending=2))
    first, _ = await with_parts(uploads)
    again = replace(HEAD, request_id="once")
    second = await uploads.create(PROJECT, again)
    with pytest.raises(TooManyUploads, match="has 2 uploads"):
        await uploads.create(PROJECT, HEAD)
    assert await uploads.create(PROJECT, again) == second
    await uploads.create("another", HEAD)
    await uploads.cancel(PROJECT, first.id)
    await uploads.create(PROJECT, HEAD)
    with pytest.raises(TooManyUploads):
        await uploads.create(PROJECT, HEAD)
    # Those whose time is over do not count, swept away or not.
    await expire_at(database, clock.now())
    await uploads.create(PROJECT, HEAD)


async def test_uploads_that_are_over_are_forgotten_after_a_day(uploads: Uploads, database: Database) -> None:
    over, _ = await with_parts(uploads)
    await uploads.cancel(PROJECT, over.id)
    waits, _ = await with_parts(uploads)
    old = clock.now() - requests.KEPT - timedelta(seconds=1)
    await expire_at(database, old)
    await uploads.create(PROJECT, HEAD)
    with pytest.raises(UploadNotFound):
        await uploads.cancel(PROJECT, over.id)
    # This one has parts, perhaps: it is ended first.
    with pytest.raises(UploadNotPending, match="is expired"):
        await uploads.cancel(PROJECT, waits.id)


async def test_start_keeps_the_parts_of_pending_uploads(files: Files, uploads: Uploads, blob_directory: Path) -> None:
    upload, parts = await with_parts(uploads, b"abc", b"def")
    (blob_directory / "ab" / ("ab" * 32)).write_bytes(b"nobody's")
    assert await files.sweep() == 1
    done, file = await uploads.complete(PROJECT, upload.id, parts)
    assert (done.status, (await files.read(PROJECT, file.id))[1]) == (UploadStatus.COMPLETED, b"abcdef")


async def test_part_equal_to_a_file_leaves_the_file_alone(files: Files, uploads: Uploads) -> None:
    file = await files.create(PROJECT, UploadHead("same.txt"), b"same")
    upload, _ = await with_parts(uploads, b"same")
    await uploads.cancel(PROJECT, upload.id)
    assert (await files.read(PROJECT, file.id))[1] == b"same"
    upload, parts = await with_parts(uploads, b"same", b"ty")
    await files.delete(PROJECT, file.id)
    _, made = await uploads.complete(PROJECT, upload.id, parts)
    assert (await files.read(PROJECT, made.id))[1] == b"samety"


async def test_completing_and_cancelling_at_the_same_time_has_one_outcome(
    files: Files, uploads: Uploads, blob_directory: Path
) -> None:
    turns, is_completed = 0, False
    # From cancelling at once to cancelling what is done already, through all that lies between.
    while not is_completed:
        upload, parts = await with_parts(uploads, b"abc", b"def")
        completing = asyncio.create_task(uploads.complete(PROJECT, upload.id, parts))
        for _ in range(turns):
            await asyncio.sleep(0)
        is_completed = completing.done()
        cancelling = asyncio.create_task(uploads.cancel(PROJECT, upload.id))
        results = await asyncio.gather(completing, cancelling, return_exceptions=True)
        assert sum(isinstance(result, UploadNotPending) for result in results) == 1, results
        if not isinstance(results[0], BaseException):
            await files.delete(PROJECT, results[0][1].id)
        assert blobs_in(blob_directory) == 0
        turns += 1 + turns // 8


async def test_cancelled_calls_are_done_whole_or_not_at_all(
    database: Database, files: Files, uploads: Uploads, blob_directory: Path
) -> None:
    turns, is_completed = 0, False
    while not is_completed:
        upload, parts = await with_parts(uploads, b"abc", b"def")
        task = asyncio.create_task(uploads.complete(PROJECT, upload.id, parts))
        for _ in range(turns):
            await asyncio.sleep(0)
        is_completed = task.done()
        turns += 1 + turns // 8
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        now = await database.read(partial(rows.get, project=PROJECT, upload_id=upload.id))
        assert now is not None
        if now.file_id is None:
            assert blobs_in(blob_directory) == 2
            await uploads.cancel(PROJECT, upload.id)
        else:
            assert blobs_in(blob_directory) == 1
            await files.delete(PROJECT, now.file_id)
        assert blobs_in(blob_directory) == 0
