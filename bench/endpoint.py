"""A scripted OpenAI-compatible endpoint, in a process of its own, that stamps what it sends with its time.

    python -m bench.endpoint

prints its base URL and serves until it is ended. The last line of the last message says what to answer, as JSON:

- ``{"code": "print(1)"}``: a call of the code interpreter. The last bytes of the answer hold a field ``stamp``, and so
  does the text of the next answer to a tool's output, for those who see no more of the first than what came of it.
- ``{"tokens": 100, "per_second": 100}``: that many pieces of text at that rate, each ``<number>:<stamp> ``.
- anything else: the text ``ok``.

A stamp is `time.monotonic_ns` just before the bytes were given to the kernel; all processes of a machine share it.
"""

import asyncio
import json
import time
from typing import Any, ClassVar, cast

import uvloop

#: Pieces that a call's arguments come in.
_FRAGMENTS = 4
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"data: [DONE]\n\n"


class _Endpoint(asyncio.Protocol):
    """One connection: requests come one after another, each is answered with a stream."""

    #: Of the last call that was made, on any connection.
    last_stamp: ClassVar[int] = 0

    def __init__(self) -> None:
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is no asyncio.Transport, though it does what one does.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        if len(rest) >= length:
            self._received = rest[length:]
            self._answer(json.loads(rest[:length]))

    def _answer(self, request: dict[str, Any]) -> None:
        self._transport.write(_HEAD)
        last = request["messages"][-1]
        if last["role"] == "tool":
            self._finish(_text(str(_Endpoint.last_stamp)), "stop")
            return
        match _script(last["content"]):
            case {"code": code}:
                self._call(code)
            case {"tokens": tokens, "per_second": rate}:
                self._say(0, tokens, 1 / rate, asyncio.get_running_loop().time())
            case _:
                self._finish(_text("ok"), "stop")

    def _call(self, code: str) -> None:
        arguments = json.dumps({"code": code})
        size = -(-len(arguments) // _FRAGMENTS)
        pieces = [arguments[start : start + size] for start in range(0, len(arguments), size)]
        function = {"name": "code_interpreter", "arguments": ""}
        self._send(_delta({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}))
        for piece in pieces[:-1]:
            self._send(_arguments(piece))
        # The endpoint rests here, so that what came before is not counted.
        self._timer = asyncio.get_running_loop().call_later(0.05, self._end_call, pieces[-1])

    def _end_call(self, piece: str) -> None:
        _Endpoint.last_stamp = time.monotonic_ns()
        self._finish(_arguments(piece), "tool_calls", _Endpoint.last_stamp)

    def _say(self, number: int, tokens: int, interval: float, start: float) -> None:
        if number == tokens:
            self._finish(b"", "stop")
            return
        self._send(_text(f"{number}:{time.monotonic_ns()} "))
        # By the clock and not by the last piece: a late one does not make the others late.
        due = start + (number + 1) * interval
        self._timer = asyncio.get_running_loop().call_at(due, self._say, number + 1, tokens, interval, start)

    def _finish(self, before: bytes, reason: str, stamp: int = 0) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        end = _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": reason}], usage=usage, stamp=stamp)
        self._send(before + end + _END, b"0\r\n\r\n")

    def _send(self, data: bytes, behind: bytes = b"") -> None:
        self._transport.write(b"%x\r\n%s\r\n%s" % (len(data), data, behind))


def _script(content: Any) -> Any:
    """The last line of a message's text, if that is a script."""
    text = content if isinstance(content, str) else content[-1].get("text", "")
    try:
        return json.loads(text.rpartition("\n")[2])
    except ValueError:
        return None


def _text(text: str) -> bytes:
    return _delta({"content": text})


def _arguments(piece: str) -> bytes:
    return _delta({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})


def _delta(delta: dict[str, object]) -> bytes:
    return _chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])


def _chunk(**fields: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "scripted", **fields}
    return b"data: %s\n\n" % json.dumps(chunk).encode()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Endpoint, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def _main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    _main()
