"""How long until the first result of a session."""

import asyncio
import time
from collections.abc import AsyncIterator

from ..contenders import IMPORTS, Arena, Server
from ..report import Figure, Role, Series, ratio

#: Seconds that the pool has to fill again; nobody is told when it has.
_REFILL_SECONDS = 0.15
_OPENINGS = 6


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    hit = Series("`CreateSession` and first `print`, pool hit", Role.OURS, "ms")
    empty = Series("`CreateSession` and first `print`, pool empty", Role.OURS, "ms")
    created = Series("`CreateSession` alone, pool hit", Role.OURS, "ms")
    kernel = Series("ipykernel started, the same imports and `print`", Role.PEER, "ms")
    for number in range(arena.times(8) + 1):
        hits, creations = await _open(arena.server, _OPENINGS, _REFILL_SECONDS)
        empties, _ = await _open(arena.poolless, _OPENINGS, 0.02)
        answer = await arena.kernels.ask("open", code=IMPORTS)
        await arena.kernels.ask("close", kernel=answer["kernel"])
        if number == 0:
            continue  # files come from the disk, code is compiled
        hit.rounds.append(hits)
        created.rounds.append(creations)
        empty.rounds.append(empties)
        kernel.rounds.append([answer["seconds"] * 1e3])
    yield Figure(
        "Open",
        [hit, empty, created, kernel],
        [
            ratio("Open, pool hit: ipykernel's time over ours", kernel, hit, (">=", 150)),
            ratio("Open, pool empty: ipykernel's time over ours", kernel, empty, (">=", 60)),
        ],
    )


async def _open(server: Server, count: int, pause_seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds until the first print of some sessions, and until each of them was open."""
    firsts, opened = [], []
    for _ in range(count):
        await asyncio.sleep(pause_seconds)
        start = time.perf_counter()
        session = await server.open()
        opened.append((time.perf_counter() - start) * 1e3)
        await server.execute(session, IMPORTS)
        firsts.append((time.perf_counter() - start) * 1e3)
        await server.close(session)
    return firsts, opened
