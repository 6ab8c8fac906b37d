"""Containers over HTTP are sessions: what one edge makes, the other one uses."""

import httpx2
import pytest
from openai import AsyncOpenAI, NotFoundError

from afarensis import v1
from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_container_and_its_files(sdk: AsyncOpenAI, api: Api) -> None:
    given = await sdk.files.create(file=("data.csv", b"a\n1\n"), purpose="user_data")
    made = await sdk.containers.create(
        name="Work", file_ids=[given.id], expires_after={"anchor": "last_active_at", "minutes": 5}
    )
    assert (made.object, made.status, made.name) == ("container", "running", "Work")
    assert made.expires_after is not None
    assert made.expires_after.minutes == 5
    added = await sdk.containers.files.create(made.id, file=("größe 2.txt", b"second"))
    assert (added.path, added.bytes, added.source) == ("/mnt/data/größe 2.txt", 6, "user")
    other = await sdk.files.create(file=("third.txt", b"3"), purpose="user_data")
    assert (await sdk.containers.files.create(made.id, file_id=other.id)).path == "/mnt/data/third.txt"
    code = "import os, shutil; os.makedirs('out'); shutil.copy('data.csv', 'out/x.txt')"
    await api.sessions.ExecuteAndWait(v1.ExecuteAndWaitRequest(session_id=made.id, code=code))
    listed = {file.path: file async for file in sdk.containers.files.list(made.id, limit=2, order="asc")}
    assert list(listed) == [f"/mnt/data/{name}" for name in ("data.csv", "größe 2.txt", "out/x.txt", "third.txt")]
    written = listed["/mnt/data/out/x.txt"]
    assert (written.source, written.bytes) == ("assistant", 4)
    again = await sdk.containers.files.retrieve(written.id, container_id=made.id)
    assert again.model_dump() == written.model_dump()
    content = await sdk.containers.files.content.retrieve(written.id, container_id=made.id)
    assert content.read() == b"a\n1\n"
    assert made.id in [one.id async for one in sdk.containers.list()]
    session = (await api.sessions.GetSession(v1.GetSessionRequest(session_id=made.id))).session
    assert session.name == "Work"
    await sdk.containers.delete(made.id)
    with pytest.raises(NotFoundError):
        await sdk.containers.retrieve(made.id)


async def test_files_of_a_container_can_be_deleted_by_code_while_they_are_walked_through(
    sdk: AsyncOpenAI, api: Api
) -> None:
    made = await sdk.containers.create(name="Walk")
    paths = [f"/mnt/data/{name}.txt" for name in "abcde"]
    code = f"for path in {paths}: open(path, 'w').write('x')"
    await api.sessions.ExecuteAndWait(v1.ExecuteAndWaitRequest(session_id=made.id, code=code))
    seen = []
    async for file in sdk.containers.files.list(made.id, limit=2, order="desc"):
        seen.append(file.path)
        delete = f"import os; os.remove({file.path!r})"
        await api.sessions.ExecuteAndWait(v1.ExecuteAndWaitRequest(session_id=made.id, code=delete))
    assert seen == paths[::-1]
    await sdk.containers.delete(made.id)


async def test_file_that_is_sent_twice_with_one_key_is_one_file(http: httpx2.AsyncClient) -> None:
    made = (await http.post("/containers", json={"name": "Once"})).json()["id"]
    key = {"Idempotency-Key": f"file of {made}"}
    for _ in range(2):
        answer = await http.post(f"/containers/{made}/files", files={"file": ("once.txt", b"once")}, headers=key)
        assert answer.status_code == 200, answer.text
    stored = (await http.get("/files", params={"purpose": "user_data"})).json()["data"]
    assert [file["filename"] for file in stored].count("once.txt") == 1
    await http.delete(f"/containers/{made}")


async def test_files_that_are_not_there_are_not_found(http: httpx2.AsyncClient) -> None:
    made = (await http.post("/containers", json={"name": "Empty"})).json()["id"]
    for file_id in ("cfile_bm9uZQ", "cfile_Li4vLi4vZXRjL3Bhc3N3ZA", "cfile_%", "file-x"):
        for path in (f"/containers/{made}/files/{file_id}", f"/containers/{made}/files/{file_id}/content"):
            answer = await http.get(path)
            assert answer.status_code == 404, (path, answer.text)
    assert (await http.get(f"/containers/{made}/files")).json()["data"] == []
    await http.delete(f"/containers/{made}")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"memory_limit": "4096g"}, "memory_limit"),
        ({"expires_after": {"anchor": "created_at", "minutes": 5}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "last_active_at", "minutes": 0}}, "expires_after.minutes"),
        ({"nme": "x"}, "nme"),
    ],
)
async def test_wishes_that_cannot_be_are_named(http: httpx2.AsyncClient, body: object, param: str) -> None:
    answer = await http.post("/containers", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_list_of_files_is_asked_for_as_any_list(http: httpx2.AsyncClient) -> None:
    made = (await http.post("/containers", json={"name": "List"})).json()["id"]
    path = f"/containers/{made}/files"
    for name in ("a.txt", "b.txt"):
        await http.post(path, files={"file": (name, b"x")})
    for query in ({"limit": "x"}, {"limit": "0"}, {"limit": "101"}, {"limit": "٣"}, {"order": "up"}, {"after": "x"}):
        answer = await http.get(path, params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query))), query
    # Of "none", which was never there.
    behind = (await http.get(path, params={"after": "cfile_bm9uZQ"})).json()["data"]
    assert [file["path"] for file in behind] == ["/mnt/data/b.txt", "/mnt/data/a.txt"]
    last = (await http.get(path)).json()["data"][-1]
    assert last["path"] == "/mnt/data/a.txt"
    assert (await http.get(path, params={"after": last["id"]})).json()["data"] == []
    await http.delete(f"/containers/{made}")
