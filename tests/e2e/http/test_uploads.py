"""Files that come in parts, through the official SDK."""

import asyncio
import hashlib
import os
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError

from afarensis import v1
from tests.support.api import Api
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

PENDING = {"bytes": 6, "filename": "data.txt", "mime_type": "text/plain", "purpose": "assistants"}


@pytest_asyncio.fixture(loop_scope="session")
async def pending(http: httpx2.AsyncClient) -> str:
    """An upload of six bytes that waits for its parts."""
    return str((await http.post("/uploads", json=PENDING)).json()["id"])


async def add(http: httpx2.AsyncClient, upload_id: str, content: bytes) -> str:
    answer = await http.post(f"/uploads/{upload_id}/parts", files={"data": content})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["object"], answer.json()["upload_id"]) == ("upload.part", upload_id)
    return str(answer.json()["id"])


async def test_parts_become_a_file_in_the_order_named(sdk: AsyncOpenAI, api: Api) -> None:
    content = os.urandom(3_000_000)
    made = await sdk.uploads.create(
        bytes=len(content),
        filename="data.bin",
        mime_type="application/octet-stream",
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 7_200},
    )
    assert (made.object, made.status, made.bytes, made.file) == ("upload", "pending", len(content), None)
    assert made.expires_at - made.created_at == 3_600
    pieces = (content[2_000_000:], content[:1_000_000], b"went wrong", content[1_000_000:2_000_000])
    last, first, _, middle = await asyncio.gather(
        *(sdk.uploads.parts.create(upload_id=made.id, data=piece) for piece in pieces)
    )
    assert (first.object, first.upload_id) == ("upload.part", made.id)
    done = await sdk.uploads.complete(
        made.id, part_ids=[first.id, middle.id, last.id], md5=hashlib.md5(content, usedforsecurity=False).hexdigest()
    )
    assert (done.status, done.bytes) == ("completed", len(content))
    assert done.file is not None
    assert (done.file.filename, done.file.purpose, done.file.bytes) == ("data.bin", "user_data", len(content))
    assert done.file.expires_at == done.file.created_at + 7_200
    assert (await sdk.files.content(done.file.id)).read() == content
    file = (await api.files.GetFile(v1.GetFileRequest(file_id=done.file.id))).file
    assert file.sha256 == hashlib.sha256(content).hexdigest()


async def test_helper_of_the_sdk_uploads_a_file_from_the_disk(sdk: AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("".join(f"{number}\n" for number in range(1_000)))
    done = await sdk.uploads.upload_file_chunked(file=path, mime_type="text/csv", purpose="assistants", part_size=1_000)
    assert done.file is not None
    assert (await sdk.files.content(done.file.id)).read() == path.read_bytes()


async def test_empty_file_needs_no_parts(http: httpx2.AsyncClient) -> None:
    made = (await http.post("/uploads", json={**PENDING, "bytes": 0})).json()
    done = (await http.post(f"/uploads/{made['id']}/complete", json={"part_ids": []})).json()
    assert (done["status"], done["file"]["bytes"]) == ("completed", 0)


async def test_completing_again_gives_the_same_file(http: httpx2.AsyncClient, pending: str) -> None:
    body = {"part_ids": [await add(http, pending, b"abc"), await add(http, pending, b"def")]}
    first, *others = await asyncio.gather(*(http.post(f"/uploads/{pending}/complete", json=body) for _ in range(4)))
    again = await http.post(f"/uploads/{pending}/complete", json=body)
    assert first.status_code == 200, first.text
    assert {answer.text for answer in (*others, again)} == {first.text}
    other = await http.post(f"/uploads/{pending}/complete", json={"part_ids": body["part_ids"][::-1]})
    assert (other.status_code, other.headers["x-afarensis-reason"]) == (400, "UPLOAD_NOT_PENDING")


async def test_completion_that_does_not_fit_can_be_tried_again(sdk: AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    made = await sdk.uploads.create(bytes=6, filename="data.txt", mime_type="text/plain", purpose="assistants")
    first, second = await add(http, made.id, b"abc"), await add(http, made.id, b"def")
    with pytest.raises(BadRequestError, match=r"expected bytes 6, got 3. The upload is still pending"):
        await sdk.uploads.complete(made.id, part_ids=[first])
    with pytest.raises(BadRequestError, match=r"expected md5 0{32}, got e80b5017098950fc58aad83c8c14978e"):
        await sdk.uploads.complete(made.id, part_ids=[first, second], md5="0" * 32)
    with pytest.raises(BadRequestError) as refusal:
        await sdk.uploads.complete(made.id, part_ids=[first, "part_of_another"])
    assert refusal.value.param == "part_ids[1]"
    with pytest.raises(BadRequestError, match="may stand only once"):
        await sdk.uploads.complete(made.id, part_ids=[first, first])
    md5 = "E80B5017098950FC58AAD83C8C14978E"
    assert (await sdk.uploads.complete(made.id, part_ids=[first, second], md5=md5)).status == "completed"


async def test_cancelled_upload_takes_nothing_more(http: httpx2.AsyncClient, pending: str) -> None:
    part = await add(http, pending, b"abcdef")
    for _ in range(2):
        cancelled = await http.post(f"/uploads/{pending}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"], cancelled.json()["file"]) == (200, "cancelled", None)
    for answer in (
        await http.post(f"/uploads/{pending}/parts", files={"data": b"abc"}),
        await http.post(f"/uploads/{pending}/complete", json={"part_ids": [part]}),
    ):
        assert (answer.status_code, answer.headers["x-afarensis-reason"]) == (400, "UPLOAD_NOT_PENDING")
        assert f"Upload {pending} is cancelled." in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"bytes": None}, "bytes"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": "6"}, "bytes"),
        ({"filename": "a/b"}, "filename"),
        ({"purpose": "batch"}, "purpose"),
        ({"mime_type": "no type"}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "last_active_at", "seconds": 3_600}}, "expires_after.anchor"),
        ({"size": 6}, "size"),
    ],
)
async def test_announcements_that_cannot_be_are_named(
    http: httpx2.AsyncClient, change: dict[str, object], param: str
) -> None:
    answer = await http.post("/uploads", json={**PENDING, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert f"'{param}'" in error["message"] or "Supported values are" in error["message"]


async def test_what_is_not_there_is_not_found(http: httpx2.AsyncClient) -> None:
    for answer in (
        await http.post("/uploads/upload_x/parts", files={"data": b"abc"}),
        await http.post("/uploads/upload_x/complete", json={"part_ids": ["part_x"]}),
        await http.post("/uploads/upload_x/cancel"),
    ):
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "No such Upload object: upload_x")


async def test_part_without_its_data_is_refused(http: httpx2.AsyncClient, pending: str) -> None:
    for files in ({"file": b"abc"}, {"data": (None, b"not a file")}):
        answer = await http.post(f"/uploads/{pending}/parts", files=files)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "data"), files
    assert (await http.post(f"/uploads/{pending}/parts", json={})).status_code == 400


async def test_repeating_with_one_key_creates_once(http: httpx2.AsyncClient) -> None:
    key = {"idempotency-key": "upload-once"}
    first, second = [(await http.post("/uploads", json=PENDING, headers=key)).json() for _ in range(2)]
    assert first == second
    parts = [
        (await http.post(f"/uploads/{first['id']}/parts", files={"data": b"abcdef"}, headers=key)).json()
        for _ in range(2)
    ]
    assert parts[0] == parts[1]
    other = await http.post("/uploads", json={**PENDING, "bytes": 7}, headers=key)
    assert (other.status_code, other.headers["x-afarensis-reason"]) == (409, "REQUEST_ID_REUSED")


# --- limits and crashes -----------------------------------------------------------------------------------------------


def contents(server: ServerProcess) -> set[str]:
    """The names of all blobs, and of what is half received."""
    return {path.name for path in (server.data_directory / "files").rglob("*") if path.is_file()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_uploads_have_limits_and_outlive_a_crash(tmp_path: Path) -> None:
    settings = {
        "http.listen": "127.0.0.1:0",
        "files.max_bytes": 100,
        "files.part_bytes": 8,
        "files.upload_parts": 3,
        "files.upload_factor": 1.5,
        "files.upload_seconds": 300,
        "files.pending_uploads": 1,
    }
    with ServerProcess(tmp_path, settings) as server:
        async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as http:
            large = await http.post("/uploads", json={**PENDING, "bytes": 101})
            assert (large.status_code, large.headers["x-afarensis-reason"]) == (413, "FILE_TOO_LARGE")
            made = (await http.post("/uploads", json=PENDING)).json()
            assert made["expires_at"] - made["created_at"] == 300
            more = await http.post("/uploads", json=PENDING)
            assert (more.status_code, more.headers["x-afarensis-reason"]) == (429, "TOO_MANY_UPLOADS")
            assert "has 1 uploads that are pending" in more.json()["error"]["message"]
            assert int(more.headers["retry-after"]) > 0
            path = f"/uploads/{made['id']}"
            large = await http.post(f"{path}/parts", files={"data": b"123456789"})
            assert (large.status_code, large.headers["x-afarensis-reason"]) == (413, "PART_TOO_LARGE")
            first, second = await add(http, made["id"], b"abc"), await add(http, made["id"], b"def")
            full = await http.post(f"{path}/parts", files={"data": b"1234"})
            assert (full.status_code, full.headers["x-afarensis-reason"]) == (400, "UPLOAD_FULL")
            await add(http, made["id"], b"xyz")
            full = await http.post(f"{path}/parts", files={"data": b"1"})
            assert (full.status_code, full.headers["x-afarensis-reason"]) == (400, "UPLOAD_FULL")
            assert contents(server) == {digest(content) for content in (b"abc", b"def", b"xyz")}
        server.kill()
        server.start()
        async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as http:
            done = await http.post(f"{path}/complete", json={"part_ids": [first, second]})
            assert (await http.get(f"/files/{done.json()['file']['id']}/content")).content == b"abcdef"
            assert contents(server) == {digest(b"abcdef")}
            assert (await http.post("/uploads", json=PENDING)).status_code == 200
