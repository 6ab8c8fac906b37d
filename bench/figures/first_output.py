"""How long it takes from a model's tool call to the first byte of its code's output, seen by a client."""

import json
import statistics
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import grpc

from afarensis import v1

from ..contenders import Arena, Server
from ..floor import RELAY
from ..report import Figure, Ratio, Role, Series, ratio

_CODE = "print(1)"
_SCRIPT = json.dumps({"code": _CODE})
_CALLS = 20
#: Milliseconds that are asked for.
_TARGET = 10.0


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    server = arena.server
    ours = Series("last byte of the model's call to the first output in the client", Role.OURS, "ms")
    executed = Series(f"`Execute` of `{_CODE}` alone, to its first output", Role.OURS, "ms")
    relayed = Series("last byte of the call through a bare relay to the client", Role.FLOOR, "ms")
    both = Series("the bare relay and `Execute` together", Role.FLOOR, "ms")
    assistant = await server.assistant("scripted")
    session = await server.open()
    await server.execute(session, _CODE)
    relay: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = arena.bare.unary_stream(RELAY)
    for round_number in range(arena.times(6) + 1):
        thread = await server.thread()
        await _time_call(server, thread, assistant)  # opens the session
        called = [await _time_call(server, thread, assistant) for _ in range(_CALLS)]
        alone = [await _time_output(server, session) for _ in range(_CALLS)]
        floor = [await _time_relay(relay, arena.endpoint) for _ in range(_CALLS)]
        await server.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread))
        if round_number == 0:
            continue
        ours.rounds.append(called)
        executed.rounds.append(alone)
        relayed.rounds.append(floor)
        both.rounds.append([one + other for one, other in zip(sorted(alone), sorted(floor), strict=True)])
    await server.close(session)
    medians = list(map(statistics.median, ours.rounds))
    yield Figure(
        "First output",
        [ours, executed, relayed, both],
        [
            Ratio("First output: ms from the last byte of a model's call", medians, ("<=", _TARGET)),
            ratio("First output: our time over a bare relay's and `Execute`'s", ours, both),
        ],
    )


async def _time_call(server: Server, thread: str, assistant: str) -> float:
    output_at, text = 0, ""
    async for event in server.run(thread, assistant, _SCRIPT):
        for call in event.run_step_delta.tool_calls:
            if call.code_interpreter.outputs and not output_at:
                output_at = time.monotonic_ns()
        for part in event.message_delta.content:
            text += part.text.value
    return (output_at - int(text)) / 1e6


async def _time_output(server: Server, session: str) -> float:
    start, output_at = time.monotonic_ns(), 0
    async for item in server.sessions.Execute(v1.ExecuteRequest(session_id=session, code=_CODE)):
        if item.event.HasField("output") and not output_at:
            output_at = time.monotonic_ns()
    return (output_at - start) / 1e6


async def _time_relay(relay: grpc.aio.UnaryStreamMultiCallable[bytes, bytes], endpoint: str) -> float:
    body = json.dumps({"messages": [{"role": "user", "content": _SCRIPT}]})
    pieces = [data async for data in relay(f"{urlsplit(endpoint).port}\n{body}".encode())]
    received = time.monotonic_ns()
    _, _, stamp = pieces[-1].rpartition(b'"stamp": ')
    return (received - int(stamp.partition(b"}")[0])) / 1e6
