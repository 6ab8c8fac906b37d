"""An OpenAI-compatible HTTP endpoint that answers by script: real HTTP, and real faults.

    async with ScriptedModel([call("code_interpreter", {"code": "1/0"}), text("It ", "failed.")]) as endpoint:
        ...  # give endpoint.base_url to the server
        assert endpoint.requests[1].body["messages"][-1]["role"] == "tool"

The script is a list of turns, used one after another, or a function from the request to a turn, which serves many
conversations at once. For other processes: ``python -m tests.support.scripted_model script.json``; `turn_from_json`
tells what the file holds.
"""

import argparse
import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# --- turns ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delta:
    """Send a chunk whose first choice has this delta."""

    delta: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Raw:
    """Send these bytes as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing until the event is set."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Drop the connection here. ``reset``: with a TCP reset, else in good order but too early."""

    reset: bool = True


Step = Delta | Raw | Wait | Pause | Cut


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer."""

    steps: tuple[Step, ...] = ()
    #: None: no chunk says how the answer ended.
    finish: str | None = "stop"
    #: Prompt and completion tokens, sent when the request asks for them; None: never.
    usage: tuple[int, int] | None = (100, 20)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Instead of steps: a body with a length; a mapping is sent as JSON.
    body: Mapping[str, object] | str | None = None
    #: Whether the length of the stream is told by chunked encoding; without, an early end looks like the end.
    chunked: bool = True

    def then(self, *steps: Step) -> "Turn":
        """The same turn with more steps behind."""
        return replace(self, steps=(*self.steps, *steps))

    def first(self, *steps: Step) -> "Turn":
        """The same turn with more steps before."""
        return replace(self, steps=(*steps, *self.steps))


def text(*pieces: str, finish: str | None = "stop") -> Turn:
    """An answer in words, a chunk for each piece."""
    return Turn(tuple(Delta({"content": piece}) for piece in pieces), finish=finish)


def call(name: str, arguments: Mapping[str, object] | str, *, id: str = "call_1", fragments: int = 3) -> Turn:  # noqa: A002  # the protocol's name
    """A call, its arguments in so many fragments; a string is sent as it is, broken or not."""
    return calls((id, name, arguments), fragments=fragments)


def calls(*made: tuple[str, str, Mapping[str, object] | str], fragments: int = 3) -> Turn:
    """Several calls in one answer: id, name and arguments of each."""
    steps: list[Step] = []
    for index, (call_id, name, arguments) in enumerate(made):
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": ""}
        steps.append(Delta({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}))
        size = max(1, -(-len(written) // fragments))
        for start in range(0, len(written), size):
            piece = {"index": index, "function": {"arguments": written[start : start + size]}}
            steps.append(Delta({"tool_calls": [piece]}))
    return Turn(tuple(steps), finish="tool_calls")


def code(source: str, *, fragments: int = 3) -> Turn:
    """A call of the code interpreter."""
    return call("code_interpreter", {"code": source}, fragments=fragments)


def error(status: int, message: str, headers: Mapping[str, str] | None = None, **more: object) -> Turn:
    """An error as OpenAI sends them; ``more`` are fields beside the message, like ``code``."""
    return Turn(status=status, headers=headers or {}, body={"error": {"message": message, **more}})


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """A chat completion that was asked for."""

    headers: Mapping[str, str]
    body: dict[str, Any]
    #: Set when the client closed the connection before the answer was sent to its end.
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tool_texts(self) -> list[str]:
        """What the tools told the model, in order."""
        return [message["content"] for message in self.body["messages"] if message["role"] == "tool"]


Script = Sequence[Turn] | Callable[[Request], Turn]


class ScriptedModel:
    """The endpoint; an async context manager. When a list is used up, every further request is answered with 500."""

    #: Where answers are asked for.
    path = "/v1/chat/completions"
    #: What a stream ends with.
    end = b"data: [DONE]\n\n"

    def __init__(
        self,
        script: Script,
        *,
        models: Sequence[str] = ("scripted",),
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._script = script
        self._models = models
        self._port = port
        self._tls = tls
        self._used = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        #: The chat completions asked for, in the order they came.
        self.requests: list[Request] = []

    @property
    def base_url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client went away, or the test is over. Not raised again: asyncio would log it as an error.
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request: each connection carries one, so that its end can be watched."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        match method, path:
            case "POST", self.path:
                request = Request(headers, json.loads(content))
                self.requests.append(request)
                await self._answer(request, reader, writer)
            case "GET", "/v1/models":
                listed = [{"id": name, "object": "model", "created": 0, "owned_by": "script"} for name in self._models]
                await _send_whole(writer, Turn(body={"object": "list", "data": listed}))
            case _:
                await _send_whole(writer, error(404, f"There is no {method} {path}."))

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = self._next_turn(request)
        if turn.body is not None:
            await _send_whole(writer, turn)
            return
        if not request.body.get("stream"):
            await _send_whole(writer, _completion(turn))
            return
        sending = asyncio.ensure_future(_send_stream(writer, turn, request.body, self.end))
        # Nothing more is read from this connection but its end.
        watching = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                request.abandoned.set()
        finally:
            sending.cancel()
            watching.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    def _next_turn(self, request: Request) -> Turn:
        if callable(self._script):
            return self._script(request)
        if self._used == len(self._script):
            return error(500, f"The script has only {self._used} turns.", {"x-should-retry": "false"})
        self._used += 1
        return self._script[self._used - 1]


async def _send_whole(writer: asyncio.StreamWriter, turn: Turn) -> None:
    is_text = isinstance(turn.body, str)
    content = turn.body.encode() if isinstance(turn.body, str) else json.dumps(turn.body).encode()
    headers = {"Content-Type": "text/html" if is_text else "application/json", "Content-Length": str(len(content))}
    writer.write(_head(turn, headers) + content)
    await writer.drain()


async def _send_stream(writer: asyncio.StreamWriter, turn: Turn, body: Mapping[str, Any], end: bytes) -> None:
    def send(data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data) if turn.chunked else data)

    def send_chunk(**fields: object) -> None:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": body["model"], **fields}
        send(f"data: {json.dumps(chunk)}\n\n".encode())

    framing = {"Transfer-Encoding": "chunked"} if turn.chunked else {}
    writer.write(_head(turn, {"Content-Type": "text/event-stream", **framing}))
    for step in turn.steps:
        match step:
            case Delta():
                send_chunk(choices=[{"index": 0, "delta": dict(step.delta), "finish_reason": None}])
            case Raw():
                send(step.data)
            case Cut():
                await writer.drain()
                if step.reset:
                    writer.transport.abort()
                return
        await writer.drain()
        await _rest(step)
    if turn.finish is not None:
        send_chunk(choices=[{"index": 0, "delta": {}, "finish_reason": turn.finish}])
    if turn.usage is not None and (body.get("stream_options") or {}).get("include_usage"):
        send_chunk(choices=[], usage=_usage(turn.usage))
    if end:
        send(end)
    writer.write(b"0\r\n\r\n" if turn.chunked else b"")
    await writer.drain()


async def _rest(step: Step) -> None:
    match step:
        case Wait():
            await step.event.wait()
        case Pause():
            await asyncio.sleep(step.seconds)


def _head(turn: Turn, headers: Mapping[str, str]) -> bytes:
    # Anthropic's 529 has no name of its own.
    phrase = HTTPStatus(turn.status).phrase if turn.status in set(HTTPStatus) else "Overloaded"
    lines = [f"HTTP/1.1 {turn.status} {phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in {**headers, **turn.headers}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def _completion(turn: Turn) -> Turn:
    """The same answer as one object, for requests that do not stream."""
    deltas = [step.delta for step in turn.steps if isinstance(step, Delta)]
    content = "".join(str(delta.get("content") or "") for delta in deltas)
    made: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for piece in delta.get("tool_calls") or ():  # type: ignore[attr-defined]  # the shape that `calls` builds
            whole = made.setdefault(piece["index"], {**piece, "function": {**piece["function"], "arguments": ""}})
            whole["function"]["arguments"] += piece["function"]["arguments"]
    message: dict[str, object] = {"role": "assistant", "content": content or None}
    if made:
        message["tool_calls"] = list(made.values())
    body: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": turn.finish}],
    }
    if turn.usage is not None:
        body["usage"] = _usage(turn.usage)
    return Turn(body=body)


# --- for other processes ----------------------------------------------------------------------------------------------


def turn_from_json(described: Mapping[str, Any]) -> Turn:
    """A turn as a script file has it.

    One of ``{"text": ["Hello ", "world"]}``, ``{"code": "print(1)"}``, ``{"call": {"name": ..., "arguments": ...}}``
    and ``{"status": 429, "message": ..., "headers": {}}``; ``"pause_seconds"`` and ``"cut": true`` may stand beside.
    """
    if "status" in described:
        turn = error(described["status"], described.get("message", ""), described.get("headers"))
    elif "code" in described:
        turn = code(described["code"])
    elif "call" in described:
        turn = call(described["call"]["name"], described["call"]["arguments"])
    else:
        turn = text(*described["text"])
    if seconds := described.get("pause_seconds"):
        turn = turn.first(Pause(seconds))
    return turn.then(Cut()) if described.get("cut") else turn


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Serve a scripted OpenAI-compatible endpoint until interrupted.")
    parser.add_argument("script", type=Path, help="a JSON list of turns; it starts over when it is used up")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    turns = [turn_from_json(described) for described in json.loads(options.script.read_text())]
    served = iter(range(2**63))
    async with ScriptedModel(lambda _: turns[next(served) % len(turns)], port=options.port) as endpoint:
        print(endpoint.base_url, flush=True)  # noqa: T201  # what the caller waits for
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
