"""How many small calls a second the server answers, beside a bare echo of the same answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from afarensis import v1

from .. import processes
from ..contenders import Arena
from ..floor import UNARY
from ..report import Figure, Role, Series, ratio

_CALLS = 1_000
_TOGETHER = 32
_TARGET = (">=", 0.6)

_Call = Callable[[], Awaitable[object]]


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    server = arena.server
    assistant, thread = await server.assistant("direct"), await server.thread()
    events = [event async for event in server.run(thread, assistant, "```python\nprint(1)\n```")]
    request = v1.GetRunRequest(run_id=events[-1].run.id)
    answer = await server.runs.GetRun(request)
    # The same bytes go over the wire, and the client makes the same message of them.
    echo: grpc.aio.UnaryUnaryMultiCallable[v1.GetRunResponse, v1.GetRunResponse] = arena.bare.unary_unary(
        UNARY,
        request_serializer=v1.GetRunResponse.SerializeToString,
        response_deserializer=v1.GetRunResponse.FromString,
    )
    contenders: dict[str, tuple[Role, _Call]] = {
        "`GetRun`": (Role.OURS, lambda: server.runs.GetRun(request)),
        "bare echo of its answer": (Role.FLOOR, lambda: echo(answer)),
    }
    series: dict[tuple[str, int], Series] = {
        (name, clients): Series(f"{name}, {_clients(clients)}", role, "/s")
        for clients in (1, _TOGETHER)
        for name, (role, _) in contenders.items()
    }
    spent = dict.fromkeys(contenders, 0.0)
    for round_number in range(arena.times(8) + 1):
        for (name, clients), measured in series.items():
            before = processes.cpu(server.pid)
            measured_rate = await rate(contenders[name][1], clients, _CALLS)
            used = processes.cpu(server.pid) - before
            if round_number:
                measured.rounds.append([measured_rate])
                spent[name] += used.user + used.system
    ours, floor = contenders
    calls = 2 * _CALLS * arena.times(8)
    yield Figure(
        "Unary",
        list(series.values()),
        [
            ratio(
                f"Unary: our rate over the bare echo's, {_clients(clients)}",
                series[ours, clients],
                series[floor, clients],
                _TARGET,
            )
            for clients in (1, _TOGETHER)
        ],
        [
            f"An answer has {answer.ByteSize()} bytes; it takes {spent[ours] / calls * 1e6:.0f} µs of the server.",
            "The run does not change meanwhile, as for most calls of a client that polls.",
        ],
    )


def _clients(count: int) -> str:
    return "one call after another" if count == 1 else f"{count} at once"


async def rate(call: _Call, clients: int, count: int) -> float:
    """Calls in a second, when each of some clients makes one after another."""

    async def client() -> None:
        for _ in range(count // clients):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return count // clients * clients / (time.perf_counter() - start)
