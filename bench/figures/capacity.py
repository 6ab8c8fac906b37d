"""How many sessions live side by side, and what the last of them costs."""

import time
from collections.abc import AsyncIterator

from .. import processes
from ..contenders import BULK, Arena, Server
from ..report import Figure, Role, Series, ratio

_SESSIONS = 1_000
#: Sessions at either end whose times stand for the first and the last.
_ENDS = 25
_MB = 1e6


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    count = max(2 * _ENDS, int(_SESSIONS * min(1.0, arena.effort)))
    first = Series(f"`CreateSession` and first `print`, the first {_ENDS}", Role.OURS, "ms")
    last = Series(f"the same, the last {_ENDS} of {count:,} that are open", Role.OURS, "ms")
    warm_alone = Series("`print` in an open session, alone", Role.OURS, "ms")
    warm_crowded = Series(f"the same beside {count - 1:,} idle sessions", Role.OURS, "ms")
    closing = Series("`CloseSession`", Role.OURS, "ms")
    for _ in range(arena.times(3)):
        async with Server({**BULK, "sandbox.pool_size": 0, "sandbox.max_sessions": count}) as server:
            await server.close(await server.open())
            used = processes.memory_in_use()
            sessions, times = [], []
            for _ in range(count):
                start = time.perf_counter()
                sessions.append(await server.open())
                await server.execute(sessions[-1], "x = 0; print(x)")
                times.append((time.perf_counter() - start) * 1e3)
                if len(sessions) == 1:
                    warm_alone.rounds.append((await server.time_execute(sessions[0], "print(x)", 120))[20:])
            each = (processes.memory_in_use() - used) / count / _MB
            first.rounds.append(times[:_ENDS])
            last.rounds.append(times[-_ENDS:])
            warm_crowded.rounds.append((await server.time_execute(sessions[0], "print(x)", 120))[20:])
            closings = []
            for session in sessions:
                start = time.perf_counter()
                await server.close(session)
                closings.append((time.perf_counter() - start) * 1e3)
            closing.rounds.append(closings)
    opened = f"{count:,} sessions were open at the same time, each after a `print`"
    slow = f"opening them one after another took {sum(times) / 1e3:.0f} s"
    yield Figure(
        "Capacity",
        [first, last, warm_alone, warm_crowded, closing],
        [
            ratio(f"Capacity: opening one of the last {_ENDS} of {count:,} over the first", last, first, ("<=", 2)),
            ratio("Capacity: a warm `print` among them over one alone", warm_crowded, warm_alone),
        ],
        [f"{opened}; {slow}, and the machine's memory in use grew by {each:.1f} MB for each."],
    )
