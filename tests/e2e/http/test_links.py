"""Links to files: for whoever has them, for as long as they last."""

from urllib.parse import parse_qs, urlencode, urlsplit

import grpc
import httpx2
import pytest
from google.protobuf.duration_pb2 import Duration

from afarensis import v1
from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")

PNG = b"\x89PNG\r\n\x1a\n and the rest"


async def upload(http: httpx2.AsyncClient, name: str, content: bytes) -> str:
    answer = await http.post("/files", data={"purpose": "assistants"}, files={"file": (name, content)})
    file_id: str = answer.json()["id"]
    return file_id


async def test_link_shows_an_image_and_downloads_what_could_run(http: httpx2.AsyncClient, api: Api) -> None:
    image, page = await upload(http, "a.png", PNG), await upload(http, "a.html", b"<script>alert(1)</script>")
    made = await api.files.CreateDownloadUrl(v1.CreateDownloadUrlRequest(file_id=image, ttl=Duration(seconds=60)))
    async with httpx2.AsyncClient() as browser:
        answer = await browser.get(made.url)
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
        assert answer.headers["content-disposition"].startswith("inline;")
        link = (await http.post(f"/files/{page}/links", json={"ttl": 60})).json()
        assert link["object"] == "file.link"
        answer = await browser.get(link["url"])
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["content-security-policy"] == "sandbox"


async def test_link_that_was_changed_or_has_expired_is_refused(http: httpx2.AsyncClient) -> None:
    one, other = await upload(http, "a.txt", b"one"), await upload(http, "b.txt", b"other")
    url = (await http.post(f"/files/{one}/links", json={})).json()["url"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    base = url.partition("?")[0]
    changed = [
        f"{base}?{urlencode({**query, 'expires': str(int(query['expires']) + 1)})}",
        f"{base}?{urlencode({**query, 'signature': 'x' * 24})}",
        f"{base}?{urlencode({**query, 'expires': '1'})}",
        f"{base}?{urlencode({**query, 'expires': '²'})}",
        f"{base}?signature=x",
        url.replace(one, other),
    ]
    for link in changed:
        answer = await http.get(link)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_link"), link
    assert (await http.get(url)).content == b"one"


async def test_link_that_cannot_be_is_refused(http: httpx2.AsyncClient, api: Api) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.files.CreateDownloadUrl(v1.CreateDownloadUrlRequest(file_id="file-x"))
    assert refused.value.details() == "No such File object: file-x"
    answer = await http.post(f"/files/{await upload(http, 'a', b'x')}/links", json={"ttl": 10**9})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "ttl")
