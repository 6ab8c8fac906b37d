"""What one more session costs in memory."""

import asyncio
from collections.abc import AsyncIterator

from .. import processes
from ..contenders import IMPORTS, Arena
from ..report import Figure, Role, Series, ratio

_PANDAS = IMPORTS + "\nprint(pandas.DataFrame({'a': range(1000), 'b': range(1000)}).groupby('a').sum().describe())"
_MB = 1e6
_IDLE_SECONDS = 1.5


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    ours = Series("private memory of a session's processes after a pandas call", Role.OURS, "MB")
    fresh = Series("the same after a `print` alone", Role.OURS, "MB")
    kernel = Series("ipykernel, the same pandas call", Role.PEER, "MB")
    server = arena.poolless
    for _ in range(arena.times(3)):
        sizes: dict[str, list[float]] = {}
        for code in ("print(1)", _PANDAS):
            before = processes.descendants(server.pid)
            sessions = [await server.open() for _ in range(5)]
            for session in sessions:
                await server.execute(session, code)
            # Idle sessions give back what they share with their zygote, half a second after the last cell.
            await asyncio.sleep(_IDLE_SECONDS)
            added = processes.descendants(server.pid) - before
            total = sum(processes.private_bytes(pid) for pid in added)
            sizes[code] = [total / len(sessions) / _MB]
            for session in sessions:
                await server.close(session)
        fresh.rounds.append(sizes["print(1)"])
        ours.rounds.append(sizes[_PANDAS])
        answer = await arena.kernels.ask("open", code=_PANDAS)
        await asyncio.sleep(_IDLE_SECONDS)
        pids = {answer["pid"], *processes.descendants(answer["pid"])}
        kernel.rounds.append([sum(processes.private_bytes(pid) for pid in pids) / _MB])
        await arena.kernels.ask("close", kernel=answer["kernel"])
    yield Figure(
        "Memory",
        [ours, fresh, kernel],
        [ratio("Memory: ipykernel's over ours", kernel, ours, (">=", 12))],
        [
            f"By `smaps_rollup`, of 5 sessions at a time, idle for {_IDLE_SECONDS} s; what they share costs no more.",
        ],
    )
