"""What comes of connections that are used otherwise than HTTP says, or not at all."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

_HOST = b"Host: localhost\r\n"


@asynccontextmanager
async def connection(server: ServerProcess) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = server.base_url.removeprefix("http://").removesuffix("/v1").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer; its body is read, too."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    return head


async def refusal(reader: asyncio.StreamReader) -> tuple[int, str, str]:
    """Status, message and code of an answer behind which the connection ends."""
    async with asyncio.timeout(20):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    headers = dict(field.lower().split(b": ", 1) for field in fields)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"connection"] == b"close"
    assert headers[b"x-request-id"]
    if headers.get(b"transfer-encoding") == b"chunked":
        body = body.split(b"\r\n")[1]
    error = json.loads(body)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)
    return int(status.split()[1]), error["message"], error["code"]


@pytest.mark.parametrize(
    ("sent", "status", "problem"),
    [
        (b"nonsense\r\n\r\n", 400, "illegal request line"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "illegal request line"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host: header"),
        (b"POST /v1/threads HTTP/1.1\r\n" + _HOST + b"Content-Length: ten\r\n\r\n", 400, "bad Content-Length"),
        (b"POST /v1/threads HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "Only Transfer-Encoding"),
        (b"GET /v1/models HTTP/1.1\r\n" + _HOST + b"X-Long: " + b"x" * 20_000, 431, "Receive buffer too long"),
    ],
    ids=["nonsense", "TLS", "no host", "bad length", "other encoding", "long head"],
)
async def test_what_is_no_http_is_refused_as_all_else(
    server: ServerProcess, sent: bytes, status: int, problem: str
) -> None:
    async with connection(server) as (reader, writer):
        writer.write(sent)
        given, message, code = await refusal(reader)
        assert (given, code) == (status, "invalid_http")
        assert message.startswith("Invalid HTTP request: ")
        assert problem.lower() in message.lower()


async def test_body_that_breaks_off_into_nonsense_is_refused(server: ServerProcess) -> None:
    async with connection(server) as (reader, writer):
        writer.write(b"POST /v1/threads HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nno\r\n")
        assert (await refusal(reader))[::2] == (400, "invalid_http")


async def test_heads_that_do_not_come_end_their_connections(tmp_path: Path) -> None:
    settings = {"http.listen": "127.0.0.1:0", "http.head_seconds": 1}
    whole = b"GET /v1/models HTTP/1.1\r\n" + _HOST + b"\r\n"
    with ServerProcess(tmp_path, settings) as server:

        async def silent() -> None:
            async with connection(server) as (reader, _):
                assert await reader.read() == b""

        async def half(before: bytes) -> None:
            """Never finish a head, though something of it comes again and again."""
            async with connection(server) as (reader, writer):
                if before:
                    writer.write(before)
                    await answer(reader)
                writer.write(b"GET /v1/models HTTP/1.1\r\n")
                dripping = asyncio.create_task(drip(writer))
                try:
                    assert await refusal(reader) == (
                        408,
                        "The head of the request did not come within 1 seconds.",
                        "request_timeout",
                    )
                finally:
                    dripping.cancel()

        async def drip(writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(b"X-More: x\r\n")
                await asyncio.sleep(0.1)

        async def unwanted_body() -> None:
            """A request that is refused before its body is there, which then stops coming."""
            async with connection(server) as (reader, writer):
                writer.write(b"POST /v1/threads HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100\r\n\r\n{")
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b" ")
                await reader.read()

        async def whole_with_pauses() -> None:
            """No head takes long, but what is between them and behind them does."""
            async with connection(server) as (reader, writer):
                for _ in range(2):
                    writer.write(whole)
                    assert (await answer(reader)).startswith(b"HTTP/1.1 200")
                    await asyncio.sleep(1.5)
                writer.write(b"POST /v1/threads HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\n")
                await asyncio.sleep(1.5)
                writer.write(b"{}")
                assert (await answer(reader)).startswith(b"HTTP/1.1 200")

        async with asyncio.timeout(20):
            await asyncio.gather(silent(), half(b""), half(whole), unwanted_body(), whole_with_pauses())
