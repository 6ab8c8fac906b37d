"""Files below /mnt/data of open sessions, listed and read while they are there."""

import hashlib
from collections.abc import Mapping

import grpc
import pytest

from afarensis import v1
from tests.support.api import Api, refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 2**20


async def listed(api: Api, session: v1.Session, directory: str = "", page_size: int = 0) -> list[v1.SessionFile]:
    """All files, page by page."""
    files: list[v1.SessionFile] = []
    request = v1.ListSessionFilesRequest(session_id=session.id, directory=directory, page_size=page_size)
    while True:
        page = await api.sessions.ListSessionFiles(request)
        files += page.files
        if not page.next_page_token:
            return files
        assert len(page.files) == page_size
        request.page_token = page.next_page_token


async def read(
    api: Api, session: v1.Session, path: str, offset: int = 0, limit: int = 0
) -> tuple[v1.SessionFile, bytes]:
    request = v1.ReadSessionFileRequest(session_id=session.id, path=path, offset_bytes=offset, limit_bytes=limit)
    parts = [part async for part in api.sessions.ReadSessionFile(request)]
    assert parts[0].HasField("file")
    assert all(0 < len(part.data) <= MIB for part in parts[1:])
    return parts[0].file, b"".join(part.data for part in parts[1:])


def by_path(files: list[v1.SessionFile]) -> Mapping[str, v1.SessionFile]:
    return {file.path.removeprefix("/mnt/data/"): file for file in files}


async def test_inputs_and_what_code_wrote_are_listed_with_their_files(api: Api) -> None:
    same, changed = await api.upload(b"same", "same.txt"), await api.upload(b"old", "changed.txt")
    session = await api.session(file_ids=[same.id, changed.id])
    code = """
import os
os.makedirs("plots")
open("plots/a.bin", "wb").write(b"a" * 10)
open("changed.txt", "a").write("er")
"""
    events = await api.execute(session.id, code)
    stored = {event.file.path: event.file.file.id for event in events if event.HasField("file")}
    files = await listed(api, session)
    assert [file.path for file in files] == [
        "/mnt/data/changed.txt",
        "/mnt/data/plots/a.bin",
        "/mnt/data/same.txt",
    ]
    found = by_path(files)
    assert [(file.size_bytes, file.input) for file in files] == [(5, False), (10, False), (4, True)]
    assert found["same.txt"].file_id == same.id
    assert found["plots/a.bin"].file_id == stored["/mnt/data/plots/a.bin"]
    assert found["changed.txt"].file_id == stored["/mnt/data/changed.txt"] != changed.id
    assert all(file.modify_time.seconds > 1_000_000_000 for file in files)


async def test_files_are_listed_page_by_page_and_by_directory(api: Api) -> None:
    session = await api.session()
    code = """
import os
for directory in ("a", "a/b", "ab"):
    os.makedirs(directory)
    for number in range(3):
        open(f"{directory}/{number}.txt", "w").write("x")
"""
    await api.execute(session.id, code)
    everything = [file.path.removeprefix("/mnt/data/") for file in await listed(api, session)]
    assert everything == sorted(f"{directory}/{number}.txt" for directory in ("a", "a/b", "ab") for number in range(3))
    assert [file.path.removeprefix("/mnt/data/") for file in await listed(api, session, page_size=2)] == everything
    below = [path for path in everything if path.startswith("a/")]
    for directory in ("a", "a/", "/mnt/data/a"):
        assert [file.path.removeprefix("/mnt/data/") for file in await listed(api, session, directory)] == below
    assert len(await listed(api, session, "/mnt/data")) == 9
    for directory in ("/", "/etc", "..", "a/../ab", "none"):
        assert await listed(api, session, directory) == []


async def test_page_token_of_another_list_is_refused(api: Api) -> None:
    session, other = await api.session(), await api.session()
    for each in (session, other):
        await api.execute(each.id, "for i in range(3): open(f'{i}.txt', 'w').write('x')")
    page = await api.sessions.ListSessionFiles(v1.ListSessionFilesRequest(session_id=session.id, page_size=1))
    for request in (
        v1.ListSessionFilesRequest(session_id=other.id, page_token=page.next_page_token),
        v1.ListSessionFilesRequest(session_id=session.id, directory="a", page_token=page.next_page_token),
        v1.ListSessionFilesRequest(session_id=session.id, page_token="x"),
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
            await api.sessions.ListSessionFiles(request)


async def test_large_file_is_read_in_whole_and_in_parts(api: Api) -> None:
    session = await api.session()
    await api.execute(
        session.id, "import random; data = random.Random(1).randbytes(3_000_000); open('big.bin', 'wb').write(data)"
    )
    file, content = await read(api, session, "/mnt/data/big.bin")
    assert (file.path, file.size_bytes) == ("/mnt/data/big.bin", 3_000_000)
    shown = await api.execute(session.id, "import hashlib; print(hashlib.sha256(data).hexdigest())")
    assert hashlib.sha256(content).hexdigest() in "".join(event.output.text for event in shown)
    assert (await read(api, session, "big.bin", 2_999_990))[1] == content[-10:]
    assert (await read(api, session, "big.bin", 5, 7))[1] == content[5:12]
    assert (await read(api, session, "big.bin", 3_000_000))[1] == b""


async def test_running_code_does_not_keep_its_files_from_being_read(api: Api) -> None:
    session = await api.session()
    call = api.sessions.Execute(
        v1.ExecuteRequest(
            session_id=session.id,
            code="import time\nopen('now.txt', 'w').write('live')\nprint('written', flush=True)\ntime.sleep(60)",
            interrupt_on_disconnect=True,
        )
    )
    async for item in call:
        if item.event.HasField("output"):
            break
    file, content = await read(api, session, "now.txt")
    assert (content, file.file_id) == (b"live", "")
    call.cancel()


@pytest.mark.parametrize(
    "path",
    [
        "none",
        "/etc/passwd",
        "../../etc/passwd",
        "link",
        "root/etc/passwd",
        "fifo",
        "d",
        "/mnt/data",
        "a//b",
        "./good.txt",
    ],
)
async def test_nothing_but_a_regular_file_below_the_directory_is_read(api: Api, path: str) -> None:
    session = await api.session()
    code = """
import os
os.symlink("/etc/passwd", "link"); os.symlink("/", "root"); os.mkfifo("fifo"); os.mkdir("d")
open("good.txt", "w").write("x")
os.utime("good.txt", (2**40, 2**40))
"""
    await api.execute(session.id, code)
    with refused(grpc.StatusCode.NOT_FOUND, "SESSION_FILE_NOT_FOUND"):
        await read(api, session, path)
    assert [file.path for file in await listed(api, session)] == ["/mnt/data/good.txt"]


async def test_reading_that_cannot_be_is_refused(api: Api) -> None:
    session = await api.session()
    await api.execute(session.id, "open('a.txt', 'w').write('abc')")

    with refused(grpc.StatusCode.OUT_OF_RANGE, "OFFSET_PAST_END") as refusal:
        await read(api, session, "a.txt", 4)
    assert refusal.metadata["size_bytes"] == "3"
    for path, offset, limit in (("", 0, 0), ("a\0", 0, 0), ("a.txt", -1, 0), ("a.txt", 0, -1)):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"):
            await read(api, session, path, offset, limit)
    with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
        await read(api, v1.Session(id="sess_none"), "a.txt")
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_ACTIVE"):
        await read(api, session, "a.txt")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_ACTIVE"):
        await listed(api, session)
