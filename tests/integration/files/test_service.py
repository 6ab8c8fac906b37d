import asyncio
import contextlib
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from afarensis_server import clock
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.errors import (
    ContentMismatch,
    FileNotFound,
    FileTooLarge,
    InvalidFields,
    OffsetPastEnd,
    RequestIdReused,
    StorageFull,
)
from afarensis_server.files.blobs import READ_BYTES, DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files, UploadHead
from afarensis_server.store import files as rows
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest

PROJECT = "default"
CSV = UploadHead("data.csv")


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class Untouched(AsyncIterator[bytes]):
    async def __anext__(self) -> bytes:
        raise AssertionError("bytes were taken")


def blobs_in(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


async def content_of(files: Files, file: File) -> bytes:
    _, chunks = await files.open(file.project, file.id)
    return b"".join([chunk async for chunk in chunks])


async def all_files(files: Files, project: str = PROJECT) -> list[File]:
    found, token = [], ""
    while True:
        page = await files.list(project, PageRequest(100, token))
        found += page.items
        if not (token := page.next_token):
            return found


# --- putting in and reading ------------------------------------------------------------------------------------------


async def test_created_file_can_be_read_back(files: Files) -> None:
    file = await files.create(PROJECT, CSV, b"a,b\n1,2\n")
    assert (file.filename, file.media_type, file.purpose) == ("data.csv", "text/csv", FilePurpose.ASSISTANTS)
    assert (file.size_bytes, file.sha256) == (8, hashlib.sha256(b"a,b\n1,2\n").hexdigest())
    assert await files.get(PROJECT, file.id) == file
    assert await files.read(PROJECT, file.id) == (file, b"a,b\n1,2\n")


async def test_uploaded_file_can_be_read_back_in_chunks(files: Files) -> None:
    content = os.urandom(2 * READ_BYTES + 1)
    head = UploadHead(
        "plot",
        FilePurpose.VISION,
        media_type="image/png",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    file = await files.upload(PROJECT, head, stream(content[:100_000], content[100_000:]))
    assert file.media_type == "image/png"
    assert await content_of(files, file) == content


async def test_empty_file_is_a_file(files: Files) -> None:
    file = await files.upload(PROJECT, CSV, stream())
    assert file.size_bytes == 0
    assert await files.read(PROJECT, file.id) == (file, b"")


async def test_part_of_a_file_is_read_from_its_offset(files: Files) -> None:
    file = await files.create(PROJECT, CSV, b"0123456789")
    assert (await files.read(PROJECT, file.id, 3, 4))[1] == b"3456"
    assert (await files.read(PROJECT, file.id, 8, 100))[1] == b"89"
    assert (await files.read(PROJECT, file.id, 10))[1] == b""


async def test_offset_past_the_end_is_out_of_range(files: Files) -> None:
    file = await files.create(PROJECT, CSV, b"0123456789")
    with pytest.raises(OffsetPastEnd, match="offset 11 is past the end") as refused:
        await files.open(PROJECT, file.id, 11)
    assert refused.value.metadata["size_bytes"] == "10"


@pytest.mark.parametrize(("offset", "limit", "field"), [(-1, 0, "offset_bytes"), (0, -1, "limit_bytes")])
async def test_negative_range_is_refused(files: Files, offset: int, limit: int, field: str) -> None:
    file = await files.create(PROJECT, CSV, b"x")
    with pytest.raises(InvalidFields) as refused:
        await files.read(PROJECT, file.id, offset, limit)
    assert [violation.field for violation in refused.value.violations] == [field]


async def test_reading_in_one_call_gives_no_more_than_its_limit(database: Database, blob_directory: Path) -> None:
    files = Files(database, DirectoryBlobs(blob_directory), FileLimits(read_bytes=4))
    file = await files.create(PROJECT, CSV, b"0123456789")
    assert (await files.read(PROJECT, file.id))[1] == b"0123"
    assert (await files.read(PROJECT, file.id, 1, 9))[1] == b"1234"


async def test_output_of_code_is_stored_under_the_nearest_valid_name(files: Files) -> None:
    file = await files.store_output(PROJECT, "out/a\nb.png", stream(b"png"))
    assert (file.filename, file.purpose, file.media_type) == (
        "a_b.png",
        FilePurpose.ASSISTANTS_OUTPUT,
        "image/png",
    )


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (replace(CSV, size_bytes=8), "expected size_bytes 8, got 7"),
        (replace(CSV, size_bytes=6), "expected size_bytes 6, got more"),
        (replace(CSV, sha256="0" * 64), f"expected sha256 {'0' * 64}, got {hashlib.sha256(b'content').hexdigest()}"),
    ],
)
async def test_content_that_is_not_what_was_announced_leaves_nothing(
    files: Files, blob_directory: Path, head: UploadHead, message: str
) -> None:
    with pytest.raises(ContentMismatch, match=message):
        await files.upload(PROJECT, head, stream(b"con", b"tent"))
    assert await all_files(files) == []
    assert blobs_in(blob_directory) == set()


async def test_announced_size_above_the_limit_is_refused_before_bytes_are_taken(files: Files) -> None:
    with pytest.raises(FileTooLarge, match="limit of 536870912 bytes"):
        await files.upload(PROJECT, replace(CSV, size_bytes=512 * 1024 * 1024 + 1), Untouched())


async def test_upload_above_the_limit_leaves_nothing(database: Database, blob_directory: Path) -> None:
    files = Files(database, DirectoryBlobs(blob_directory), FileLimits(file_bytes=10))
    await files.upload(PROJECT, CSV, stream(b"0123456789"))
    with pytest.raises(FileTooLarge):
        await files.upload(PROJECT, CSV, stream(b"0123456789", b"x"))
    assert len(await all_files(files)) == len(blobs_in(blob_directory)) == 1


async def test_file_too_large_for_one_call_is_told_the_other_call(files: Files) -> None:
    with pytest.raises(FileTooLarge, match="Use UploadFile"):
        await files.create(PROJECT, CSV, bytes(1024 * 1024 + 1))
    assert (await files.create(PROJECT, CSV, bytes(1024 * 1024))).size_bytes == 1024 * 1024


async def test_all_that_is_wrong_with_an_upload_is_told_before_bytes_are_taken(files: Files) -> None:
    head = UploadHead(
        "a/b",
        FilePurpose.ASSISTANTS_OUTPUT,
        media_type="csv",
        sha256="ABC",
        size_bytes=-1,
        ttl_seconds=3_599,
        request_id="x" * 129,
    )
    with pytest.raises(InvalidFields) as refused:
        await files.upload(PROJECT, head, Untouched())
    assert [(violation.field, violation.reason) for violation in refused.value.violations] == [
        ("metadata.filename", "INVALID_CHARACTER"),
        ("metadata.purpose", "INVALID_VALUE"),
        ("metadata.media_type", "INVALID_FORMAT"),
        ("metadata.sha256", "INVALID_FORMAT"),
        ("metadata.size_bytes", "OUT_OF_RANGE_VALUE"),
        ("metadata.ttl", "OUT_OF_RANGE_VALUE"),
        ("metadata.request_id", "STRING_TOO_LONG"),
    ]


@pytest.mark.parametrize("seconds", [3_599.9, 2_592_000.1, -1, float("nan")])
async def test_ttl_outside_of_its_range_is_refused(files: Files, seconds: float) -> None:
    with pytest.raises(InvalidFields) as refused:
        await files.create(PROJECT, replace(CSV, ttl_seconds=seconds), b"")
    assert [violation.field for violation in refused.value.violations] == ["ttl"]


async def test_files_of_another_project_do_not_exist(files: Files) -> None:
    file = await files.create("theirs", CSV, b"secret")
    for call in (files.get, files.open, files.read, files.path, files.delete):
        with pytest.raises(FileNotFound, match=f"No such File object: {file.id}"):
            await call(PROJECT, file.id)
    assert await all_files(files) == []


@pytest.mark.parametrize("size", [-1, 10_001])
async def test_page_size_outside_of_its_range_is_refused(files: Files, size: int) -> None:
    with pytest.raises(InvalidFields, match="page_size"):
        await files.list(PROJECT, PageRequest(size))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", directory], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield directory
    subprocess.run(["umount", directory], check=True)


async def test_full_disk_is_told_and_leaves_nothing(database: Database, small_disk: Path) -> None:
    files = Files(database, DirectoryBlobs(small_disk / "blobs"), FileLimits())
    with pytest.raises(StorageFull):
        await files.upload(PROJECT, CSV, stream(*[bytes(600_000)] * 4))
    assert blobs_in(small_disk) == set()
    assert (await files.create(PROJECT, CSV, b"small")).size_bytes == 5


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_list_is_newest_first_and_filtered_by_purpose(files: Files) -> None:
    first = await files.create(PROJECT, CSV, b"1")
    second = await files.create(PROJECT, replace(CSV, purpose=FilePurpose.VISION), b"2")
    third = await files.create(PROJECT, CSV, b"3")
    assert await all_files(files) == [third, second, first]
    page = await files.list(PROJECT, PageRequest(1), FilePurpose.ASSISTANTS)
    assert page.items == [third]
    assert (await files.list(PROJECT, PageRequest(1, page.next_token), FilePurpose.ASSISTANTS)).items == [first]


# --- request ids -----------------------------------------------------------------------------------------------------


async def test_repeated_request_gives_the_file_it_created(files: Files) -> None:
    head = replace(CSV, request_id="r1")
    file = await files.create(PROJECT, head, b"content")
    assert await files.create(PROJECT, head, b"content") == file
    assert await all_files(files) == [file]


async def test_request_id_with_other_content_is_refused_and_leaves_nothing(files: Files, blob_directory: Path) -> None:
    head = replace(CSV, request_id="r1")
    file = await files.upload(PROJECT, head, stream(b"content"))
    for other, content in ((head, b"other content"), (replace(head, filename="b.csv"), b"content")):
        with pytest.raises(RequestIdReused):
            await files.upload(PROJECT, other, stream(content))
    assert blobs_in(blob_directory) == {file.sha256}
    assert await content_of(files, file) == b"content"


async def test_repeated_request_does_not_bring_back_what_was_deleted(files: Files, blob_directory: Path) -> None:
    head = replace(CSV, request_id="r1")
    file = await files.create(PROJECT, head, b"content")
    await files.delete(PROJECT, file.id)
    with pytest.raises(FileNotFound):
        await files.create(PROJECT, head, b"content")
    assert blobs_in(blob_directory) == set()


async def test_same_request_at_the_same_time_creates_one_file(files: Files) -> None:
    head = replace(CSV, request_id="r1")
    created = await asyncio.gather(*(files.create(PROJECT, head, b"content") for _ in range(5)))
    assert len({file.id for file in created}) == 1


# --- deleting --------------------------------------------------------------------------------------------------------


async def test_equal_contents_share_a_blob_until_the_last_file_is_deleted(files: Files, blob_directory: Path) -> None:
    ours = await files.create(PROJECT, CSV, b"same")
    theirs = await files.create("theirs", replace(CSV, filename="other.csv"), b"same")
    assert blobs_in(blob_directory) == {ours.sha256}
    await files.delete(PROJECT, ours.id)
    assert await content_of(files, theirs) == b"same"
    await files.delete("theirs", theirs.id)
    assert blobs_in(blob_directory) == set()


async def test_deleted_file_does_not_exist(files: Files) -> None:
    file = await files.create(PROJECT, CSV, b"content")
    await files.delete(PROJECT, file.id)
    for call in (files.get, files.open, files.path, files.delete):
        with pytest.raises(FileNotFound):
            await call(PROJECT, file.id)


async def test_download_goes_on_after_the_file_is_deleted(files: Files) -> None:
    content = os.urandom(3 * READ_BYTES)
    file = await files.upload(PROJECT, CSV, stream(content))
    _, chunks = await files.open(PROJECT, file.id)
    begun = await anext(aiter(chunks))
    await files.delete(PROJECT, file.id)
    assert begun + b"".join([chunk async for chunk in chunks]) == content


async def test_only_one_of_two_deletions_finds_the_file(files: Files) -> None:
    file = await files.create(PROJECT, CSV, b"content")
    outcomes = await asyncio.gather(*(files.delete(PROJECT, file.id) for _ in range(2)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["FileNotFound", "NoneType"]


async def test_expired_file_is_gone_at_once_and_swept_later(database: Database, blob_directory: Path) -> None:
    files = Files(database, DirectoryBlobs(blob_directory), FileLimits(minimum_ttl_seconds=0))
    kept = await files.create(PROJECT, replace(CSV, ttl_seconds=3_600), b"kept")
    gone = await files.create(PROJECT, replace(CSV, ttl_seconds=0), b"gone")
    assert kept.expire_time == kept.create_time + timedelta(hours=1)
    for call in (files.get, files.open, files.path, files.delete):
        with pytest.raises(FileNotFound):
            await call(PROJECT, gone.id)
    assert await all_files(files) == [kept]
    assert await files.delete_expired(clock.now()) == 1
    assert blobs_in(blob_directory) == {kept.sha256}
    assert await files.next_expiry(clock.now()) == kept.expire_time


async def test_all_expired_files_are_swept_however_many(database: Database, blob_directory: Path) -> None:
    files = Files(database, DirectoryBlobs(blob_directory), FileLimits(minimum_ttl_seconds=0))
    await asyncio.gather(*(files.create(PROJECT, replace(CSV, ttl_seconds=0), b"%d" % n) for n in range(250)))
    assert await files.delete_expired(clock.now()) == 250
    assert blobs_in(blob_directory) == set()


async def test_file_is_deleted_when_it_expires(database: Database, blob_directory: Path) -> None:
    limits = FileLimits(minimum_ttl_seconds=0)
    async with Files(database, DirectoryBlobs(blob_directory), limits) as files:
        later = await files.create(PROJECT, replace(CSV, ttl_seconds=3_600), b"later")
        soon = await files.create(PROJECT, replace(CSV, ttl_seconds=0.1), b"soon")
        async with asyncio.timeout(10):
            while blobs_in(blob_directory) != {later.sha256}:
                await asyncio.to_thread(lambda: None)
        assert soon.expire_time is not None
        assert clock.now() >= soon.expire_time


async def test_file_that_expired_while_the_server_was_down_is_deleted_at_its_start(
    database: Database, blob_directory: Path
) -> None:
    limits = FileLimits(minimum_ttl_seconds=0)
    await Files(database, DirectoryBlobs(blob_directory), limits).create(PROJECT, replace(CSV, ttl_seconds=0), b"gone")
    async with Files(database, DirectoryBlobs(blob_directory), limits), asyncio.timeout(10):
        while blobs_in(blob_directory):
            await asyncio.to_thread(lambda: None)


# --- together, cancelled, killed -------------------------------------------------------------------------------------


async def check_rows_and_blobs(files: Files, blob_directory: Path) -> None:
    """No row without its whole blob, no blob without a row."""
    found = await all_files(files)
    for file in found:
        assert hashlib.sha256(await content_of(files, file)).hexdigest() == file.sha256
    assert blobs_in(blob_directory) == {file.sha256 for file in found}


async def test_two_uploads_of_the_same_content_are_two_files_of_one_blob(files: Files, blob_directory: Path) -> None:
    content = os.urandom(3_000_000)
    first, second = await asyncio.gather(*(files.upload(PROJECT, CSV, stream(content)) for _ in range(2)))
    assert first.id != second.id
    assert blobs_in(blob_directory) == {first.sha256} == {second.sha256}


async def test_uploads_and_deletions_of_one_content_never_miss_each_other(files: Files, blob_directory: Path) -> None:
    async def come_and_go() -> None:
        for _ in range(25):
            file = await files.create(PROJECT, CSV, b"same")
            assert await content_of(files, file) == b"same"
            await files.delete(PROJECT, file.id)

    stays = [come_and_go() for _ in range(8)]
    await asyncio.gather(*stays)
    file = await files.create(PROJECT, CSV, b"same")
    assert await content_of(files, file) == b"same"
    await check_rows_and_blobs(files, blob_directory)


async def cancel_after(task: asyncio.Task[object], turns: int) -> None:
    """Cancel a task after so many turns of the event loop; threads make where it then is a matter of chance."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_cancelled_uploads_and_deletions_are_done_whole_or_not_at_all(files: Files, blob_directory: Path) -> None:
    for turns in range(0, 400, 4):
        upload: asyncio.Task[object] = asyncio.create_task(files.create(PROJECT, CSV, b"content"))
        await cancel_after(upload, turns)
        for file in await all_files(files):
            deletion: asyncio.Task[object] = asyncio.create_task(files.delete(PROJECT, file.id))
            await cancel_after(deletion, turns)
        await check_rows_and_blobs(files, blob_directory)


async def test_start_sweeps_blobs_that_no_file_has(files: Files, database: Database, blob_directory: Path) -> None:
    kept = await files.create(PROJECT, CSV, b"kept")
    lost = await files.create(PROJECT, CSV, b"lost")
    await database.write(lambda tx: rows.delete(tx.connection, PROJECT, lost.id))
    (blob_directory / "incoming" / "half-received").write_bytes(b"ha")
    (blob_directory / kept.sha256[:2] / "not-a-blob").write_bytes(b"somebody's")
    assert await files.sweep() == 1
    assert blobs_in(blob_directory) == {kept.sha256, "not-a-blob"}


async def test_start_with_the_database_of_another_server_sweeps_nothing(
    files: Files, blob_directory: Path, tmp_path: Path
) -> None:
    file = await files.create(PROJECT, CSV, b"kept")
    async with Database(f"sqlite:///{tmp_path}/other.db") as other:
        assert await Files(other, DirectoryBlobs(blob_directory), FileLimits()).sweep() == 0
    assert await content_of(files, file) == b"kept"


async def test_source_of_an_upload_is_let_go_when_the_upload_is_refused(
    database: Database, blob_directory: Path
) -> None:
    files = Files(database, DirectoryBlobs(blob_directory), FileLimits(file_bytes=1))
    closed = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            yield b"too much"
        finally:
            closed = True

    with pytest.raises(FileTooLarge):
        await files.store_output(PROJECT, "x", source())
    assert closed
