"""How long a small cell takes in a session that is open."""

import time
from collections.abc import AsyncIterator

import grpc

from afarensis import v1

from ..contenders import IMPORTS, Arena, Server
from ..floor import ECHO
from ..report import Figure, Role, Series, ratio

_Echo = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
_CELL = "x += 1; print(x)"
#: Messages of one execution's stream: it began, it printed, it ended.
_MESSAGES = 3
#: Bytes of such a message.
_MESSAGE_BYTES = 64


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    ours = Series(f"`Execute` of `{_CELL}`", Role.OURS, "ms")
    whole = Series(f"`ExecuteAndWait` of `{_CELL}`", Role.OURS, "ms")
    kernel = Series("ipykernel, the same", Role.PEER, "ms")
    stream = Series(f"bare echo, a new stream of {_MESSAGES} messages", Role.FLOOR, "ms")
    single = Series("bare echo, a new stream of 1 message", Role.FLOOR, "ms")
    session = await arena.server.open()
    await arena.server.execute(session, "x = 0")
    number = (await arena.kernels.ask("open", code=IMPORTS + "; x = 0"))["kernel"]
    echo: _Echo = arena.bare.unary_stream(ECHO)
    for round_number in range(arena.times(10) + 1):
        times = await arena.server.time_execute(session, _CELL, 100)
        wholes = await _time_whole(arena.server, session, 100)
        answer = await arena.kernels.ask("execute", kernel=number, code=_CELL, count=50)
        streams = await _time_echo(echo, _MESSAGES, 100)
        singles = await _time_echo(echo, 1, 100)
        if round_number == 0:
            continue
        ours.rounds.append(times)
        whole.rounds.append(wholes)
        kernel.rounds.append([seconds * 1e3 for seconds in answer["seconds"]])
        stream.rounds.append(streams)
        single.rounds.append(singles)
    await arena.server.close(session)
    await arena.kernels.ask("close", kernel=number)
    yield Figure(
        "Warm",
        [ours, whole, kernel, stream, single],
        [
            ratio("Warm: ipykernel's time over ours", kernel, ours, (">=", 3)),
            ratio("Warm: ipykernel's time over that of `ExecuteAndWait`", kernel, whole),
            ratio("Warm: our time over the bare echo's, as many messages", ours, stream, ("<=", 2)),
            ratio("Warm: our time over the bare echo's, 1 message", ours, single),
        ],
    )


async def _time_whole(server: Server, session: str, count: int) -> list[float]:
    request = v1.ExecuteAndWaitRequest(session_id=session, code=_CELL)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        answer = await server.sessions.ExecuteAndWait(request)
        times.append((time.perf_counter() - start) * 1e3)
        assert answer.execution.result.status == v1.EXECUTION_STATUS_OK, answer
    return times


async def _time_echo(echo: _Echo, messages: int, count: int) -> list[float]:
    request = bytes([messages]) * _MESSAGE_BYTES
    times = []
    for _ in range(count):
        start = time.perf_counter()
        async for _ in echo(request):
            pass
        times.append((time.perf_counter() - start) * 1e3)
    return times
