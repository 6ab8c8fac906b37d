"""What the providers' HTTP does by itself, whatever SDK is above it."""

import asyncio
import gzip
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Self

import pytest

from afarensis_server.runs.models.anthropic import AnthropicModel
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.openai import OpenAIModel
from afarensis_server.runs.models.protocol import (
    Finish,
    Model,
    ModelError,
    ModelErrorReason,
    ModelEvent,
    ModelRequest,
    TextDelta,
    TextPart,
    UserMessage,
)
from afarensis_server.runs.models.transport import body_of, client
from tests.support import scripted_anthropic
from tests.support.containers import make_certificates
from tests.support.scripted_anthropic import ScriptedAnthropic
from tests.support.scripted_model import Cut, Pause, Raw, ScriptedModel, Turn, Wait, text

QUESTION = ModelRequest("scripted", (UserMessage((TextPart("Hello"),)),))
#: Where nothing is, so that only a proxy can lead there.
NOWHERE = "http://models.invalid/v1"


class ForwardProxy(ScriptedModel):
    """A proxy whose every endpoint is the script: it is asked for whole URLs."""

    path = f"{NOWHERE}/chat/completions"


class AnthropicProxy(ScriptedAnthropic):
    path = "http://models.invalid/v1/messages"


class Tunnel:
    """A proxy that passes on one connection after another; an async context manager."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self._answer = answer
        #: The first line of each request.
        self.asked: list[str] = []
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        # Both sides are closed by now, and each connection ends with them.
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0].decode())
        if b" 200 " not in self._answer:
            writer.write(self._answer)
            await writer.drain()
            writer.close()
            return
        host, _, port = self.asked[-1].split()[1].rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        writer.write(self._answer)
        await asyncio.gather(_pass_on(reader, there_writer), _pass_on(there_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def certified(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
    return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def answer(model: Model) -> AsyncIterator[ModelEvent]:
    async with aclosing(model.stream(QUESTION)) as events:
        async for event in events:
            yield event


async def words(model: Model) -> str:
    return "".join([event.text async for event in answer(model) if isinstance(event, TextDelta)])


async def test_reader_that_takes_its_time_is_no_silence_of_the_endpoint() -> None:
    turn = text("a", "b").then(Pause(0.01), *text("c").steps)
    async with (
        ScriptedModel([turn]) as endpoint,
        OpenAIModel(EndpointSettings(endpoint.base_url, stall_seconds=0.3)) as model,
    ):
        told = []
        async for event in answer(model):
            told.append(event)
            if len(told) == 1:
                await asyncio.sleep(1.0)  # as when the database cannot be written
    assert "".join(event.text for event in told if isinstance(event, TextDelta)) == "abc"
    assert isinstance(told[-1], Finish)


async def test_silence_after_a_slow_reader_is_still_one() -> None:
    turn = text("a").then(Pause(60))
    async with (
        ScriptedModel([turn]) as endpoint,
        OpenAIModel(EndpointSettings(endpoint.base_url, stall_seconds=0.3)) as model,
    ):
        events = answer(model)
        assert await anext(events) == TextDelta("a")
        await asyncio.sleep(0.5)
        with pytest.raises(ModelError, match=r"sent nothing for 0\.3 seconds"):
            await anext(events)


@pytest.mark.parametrize("cut", [1, 20, 70])
async def test_answer_that_comes_compressed_is_read(cut: int) -> None:
    stream = b'data: {"choices": [{"delta": {"content": "pressed"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    data = gzip.compress(stream)
    turn = Turn((Raw(data[:cut]), Pause(0.01), Raw(data[cut:])), finish=None, usage=None)
    turn = Turn(turn.steps, finish=None, usage=None, headers={"Content-Encoding": "gzip"})

    class Compressed(ScriptedModel):
        end = b""

    async with Compressed([turn]) as endpoint, OpenAIModel(EndpointSettings(endpoint.base_url)) as model:
        assert await words(model) == "pressed"
    assert endpoint.requests[0].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_requests_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    async with ForwardProxy([text("through")]) as proxy:
        address = proxy.base_url.removesuffix("/v1").replace("http://", "http://me:p%40ss@")
        monkeypatch.setenv(variable, address)
        async with OpenAIModel(EndpointSettings(NOWHERE)) as model:
            assert await words(model) == "through"
    assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {b64encode(b'me:p@ss').decode()}"


async def test_requests_of_anthropics_sdk_go_through_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AnthropicProxy([scripted_anthropic.text("through")]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        settings = EndpointSettings("http://models.invalid", provider="anthropic", name="claude")
        async with AnthropicModel(settings) as model:
            assert await words(model) == "through"


async def test_hosts_that_the_environment_names_are_asked_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy([text("through")]) as proxy, ScriptedModel([text("past it")]) as endpoint:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with OpenAIModel(EndpointSettings(endpoint.base_url)) as model:
            assert await words(model) == "past it"
    assert not proxy.requests


async def test_certificates_that_the_environment_trusts_are_trusted(
    monkeypatch: pytest.MonkeyPatch, certificates: Path
) -> None:
    async with ScriptedModel([text("safe")], tls=certified(certificates)) as endpoint:
        settings = EndpointSettings(endpoint.base_url, max_retries=0)
        async with OpenAIModel(settings) as model:
            with pytest.raises(ModelError, match="no secure connection could be made"):
                await words(model)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        async with OpenAIModel(settings) as model:
            assert await words(model) == "safe"


async def test_proxy_leads_to_an_endpoint_whose_connection_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch, certificates: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    async with Tunnel() as proxy, ScriptedModel([text("safe")], tls=certified(certificates)) as endpoint:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with OpenAIModel(EndpointSettings(endpoint.base_url)) as model:
            assert await words(model) == "safe"
    host = endpoint.base_url.removeprefix("https://").removesuffix("/v1")
    assert proxy.asked == [f"CONNECT {host} HTTP/1.1"]


async def test_proxy_that_is_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedModel([]) as nobody:
        address = nobody.base_url
    monkeypatch.setenv("HTTP_PROXY", address)
    async with OpenAIModel(EndpointSettings(NOWHERE, max_retries=0)) as model:
        with pytest.raises(ModelError, match="cannot be reached: the connection was refused") as raised:
            await words(model)
    assert raised.value.reason is ModelErrorReason.MODEL_UNREACHABLE


@pytest.mark.parametrize("provider", [OpenAIModel, AnthropicModel])
async def test_credentials_in_an_address_become_a_header(provider: type[OpenAIModel | AnthropicModel]) -> None:
    kind, said = (
        (ScriptedModel, text("ok")) if provider is OpenAIModel else (ScriptedAnthropic, scripted_anthropic.text("ok"))
    )
    async with kind([said]) as endpoint:
        address = endpoint.base_url.replace("http://", "http://me:p%40ss@")
        async with provider(EndpointSettings(address, name="endpoint")) as model:
            assert await words(model) == "ok"
    assert endpoint.requests[0].headers["authorization"] == f"Basic {b64encode(b'me:p@ss').decode()}"


@pytest.mark.parametrize("provider", [OpenAIModel, AnthropicModel])
@pytest.mark.parametrize("at_rest", [False, True])
async def test_body_that_cannot_be_parsed_is_told_at_once(
    provider: type[OpenAIModel | AnthropicModel], at_rest: bool
) -> None:
    data = {
        OpenAIModel: b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n',
        AnthropicModel: b"".join(step.data for step in scripted_anthropic.text("a").steps[:4] if isinstance(step, Raw)),
    }[provider]
    steps = (Raw(b"%x\r\n%s\r\n" % (len(data), data)), Pause(0.05), Raw(b"this is no size\r\n"), Wait(asyncio.Event()))
    turn = Turn(steps, chunked=False, headers={"Transfer-Encoding": "chunked"})
    kind = ScriptedModel if provider is OpenAIModel else ScriptedAnthropic
    async with (
        kind([turn]) as endpoint,
        provider(EndpointSettings(endpoint.base_url, name="endpoint", stall_seconds=30)) as model,
        asyncio.timeout(10),
    ):
        events = answer(model)
        assert await anext(events) == TextDelta("a")
        if at_rest:
            await asyncio.sleep(0.2)
        with pytest.raises(ModelError, match="closed the connection before its answer was complete"):
            await anext(events)


async def test_proxy_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Tunnel(answer=b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with OpenAIModel(EndpointSettings("https://models.invalid/v1")) as model:
            with pytest.raises(ModelError, match="cannot be reached: the proxy on the way refused the connection"):
                await words(model)


async def test_connection_that_ended_while_nobody_read_is_let_go(
    monkeypatch: pytest.MonkeyPatch, certificates: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    turn = Turn((Raw(b"data: 1\n\n"), Pause(0.05), Cut()))
    async with ScriptedModel([turn], tls=certified(certificates)) as endpoint, client(1) as http:
        request = http.build_request(
            "POST", f"{endpoint.base_url}/chat/completions", content=b'{"stream": true, "model": "x"}'
        )
        response = await http.send(request, stream=True)
        assert await body_of(response).read() == b"data: 1\n\n"
        port = int(endpoint.base_url.split(":")[2].removesuffix("/v1"))
        async with asyncio.timeout(5):
            while "08" not in states_to(port):  # noqa: ASYNC110  the kernel tells nobody
                await asyncio.sleep(0.01)
        await response.aclose()
        async with asyncio.timeout(5):
            while states_to(port) & {"01", "08"}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def states_to(port: int) -> set[str]:
    """The states of this machine's connections to a port: 01 established, 08 closed by the other side alone."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[3] for line in lines if line[2].endswith(f":{port:04X}")}
