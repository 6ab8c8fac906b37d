"""What the HTTP edge adds to a call and to a streamed event, beside the gRPC edge of the same server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp

from afarensis import v1

from .. import processes
from ..contenders import Arena
from ..report import Figure, Ratio, Role, Series
from .unary import rate

_CALLS = 1_000
_REPLAYS = 20
#: Events of the run that is replayed; about one for each of its tokens.
_TOKENS = 300

_Call = Callable[[], Awaitable[object]]


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    server = arena.server
    assistant, thread = await server.assistant("scripted", code=False), await server.thread()
    script = f'{{"tokens": {_TOKENS}, "per_second": 100}}'
    events = [event async for event in server.run(thread, assistant, script)]
    run_id, path = events[-1].run.id, f"{server.base_url}/threads/{thread}/runs/{events[-1].run.id}"
    request, stream = v1.GetRunRequest(run_id=run_id), v1.StreamRunEventsRequest(run_id=run_id)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def get() -> object:
            async with session.get(path) as answer:
                return await answer.read()

        async def follow() -> object:
            async with session.get(f"{path}/events") as answer:
                return [line async for line in answer.content]

        async def follow_by_grpc() -> object:
            return [item async for item in server.runs.StreamRunEvents(stream)]

        yield await _compare(
            arena,
            "HTTP call",
            {"`GET` of a run": get, "`GetRun`": lambda: server.runs.GetRun(request)},
            _CALLS,
            1,
        )
        yield await _compare(
            arena,
            "HTTP event",
            {"an event by server-sent events": follow, "an event of `StreamRunEvents`": follow_by_grpc},
            _REPLAYS,
            len(events),
        )


async def _compare(arena: Arena, name: str, contenders: dict[str, _Call], count: int, parts: int) -> Figure:
    """Milliseconds for one of so many parts of a call, and the server's own time for it."""
    series = {call: Series(call, Role.PEER if index else Role.OURS, "ms") for index, call in enumerate(contenders)}
    spent = dict.fromkeys(contenders, 0.0)
    rounds = arena.times(8)
    for number in range(rounds + 1):
        for title, call in contenders.items():
            before = processes.cpu(arena.server.pid)
            calls_per_second = await rate(call, 1, count)
            used = processes.cpu(arena.server.pid) - before
            if number:
                series[title].rounds.append([1e3 / calls_per_second / parts])
                spent[title] += (used.user + used.system) / (count * parts)
    http, grpc = series.values()
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(http.rounds, grpc.rounds, strict=True)]
    times = " and ".join(f"{spent[title] / rounds * 1e6:.0f} µs for {title}" for title in contenders)
    return Figure(
        name, [http, grpc], [Ratio(f"{name}: its time over gRPC's", ratios)], [f"The server's own time: {times}."]
    )
