"""Measures the docker driver beside the local one: ``python -m bench.containers --host URL --image NAME``.

It takes an engine and the image of `make sandbox-image`, which is why it is not one of `make bench`'s figures. Each
round asks all of them, one after the other, so that what else the machine does falls on all.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from afarensis_server.sandbox.docker import DockerSandboxSettings
from afarensis_server.sandbox.docker.driver import DockerSandbox
from afarensis_server.sandbox.driver import SandboxDriver, SandboxSession, SessionLimits, SessionSpec
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings

_MIB = 2**20
_ROOT = Path(__file__).parents[1]
LIMITS = SessionLimits(
    memory_bytes=1024 * _MIB,
    cpu_cores=1.0,
    processes=128,
    open_files=1024,
    disk_bytes=1024 * _MIB,
    disk_inodes=10_000,
    output_bytes=256 * _MIB,
    display_bytes=16 * _MIB,
)
#: Imports what a first cell commonly does.
_FIRST = "import numpy, pandas\nimport matplotlib.pyplot\nprint(1)"
_WARM = "x = 1\nprint(x)"
_FLOOD_BYTES = 64 * _MIB
_FLOOD = f"import os\nfor _ in range({_FLOOD_BYTES // 65536}): os.write(1, b'x' * 65536)"
_WARM_CALLS = 200


async def run(session: SandboxSession, code: str) -> None:
    async for _ in session.execute(code, timeout_seconds=120):
        pass


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that something takes."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def measure(driver: SandboxDriver, *, pool: bool) -> dict[str, float]:
    """Milliseconds of each step, and MiB per second of output."""
    if pool:
        await driver._pool.settle()  # type: ignore[attr-defined]  # noqa: SLF001 - both drivers have one
    found: dict[str, float] = {}
    began = time.perf_counter()
    session = await driver.open(SessionSpec("sess_bench", LIMITS))
    try:
        await run(session, _FIRST)
        how = "pool" if pool else "no pool"
        found[f"start to first result, {how}"] = (time.perf_counter() - began) * 1000
        if pool:
            found["warm call"] = statistics.median(
                [await timed(lambda: run(session, _WARM)) for _ in range(_WARM_CALLS)]
            )
            found["output, MiB/s"] = _FLOOD_BYTES / _MIB / (await timed(lambda: run(session, _FLOOD))) * 1000
    finally:
        await session.close()
    return found


async def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="", help="where the engine listens")
    parser.add_argument("--image", required=True)
    parser.add_argument("--runtime", action="append", default=[], help="measure this runtime, too")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="afarensis-bench-") as directory:
        for pool in (2, 0):
            async with AsyncExitStack() as stack:
                drivers: dict[str, SandboxDriver] = {
                    "local": LocalSandbox(
                        LocalSandboxSettings(
                            guest_python=_ROOT / ".guest/bin/python",
                            work_directory=Path(directory, f"local-{pool}"),
                            pool_size=pool,
                            usual_limits=LIMITS,
                        )
                    )
                }
                for runtime in ["", *options.runtime]:
                    drivers[f"docker, {runtime or 'runc'}"] = DockerSandbox(
                        DockerSandboxSettings(
                            host=options.host,
                            image=options.image,
                            runtime=runtime,
                            work_directory=Path(directory, f"docker-{runtime}-{pool}"),
                            pool_size=pool,
                            usual_limits=LIMITS,
                        )
                    )
                for driver in drivers.values():
                    await stack.enter_async_context(driver)
                for _ in range(options.rounds):
                    for name, driver in drivers.items():
                        for what, value in (await measure(driver, pool=bool(pool))).items():
                            results.setdefault(what, {}).setdefault(name, []).append(value)
    names = list(next(iter(results.values())))
    print("| | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for what, by_name in results.items():
        print(f"| {what} | " + " | ".join(_shown(what, by_name[name]) for name in names) + " |")


def _shown(what: str, values: list[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    if what.endswith("MiB/s"):
        return f"{middle:.0f} ({low:.0f} to {high:.0f})"
    digits = 1 if middle < 100 else 0
    return f"{middle:.{digits}f} ms ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
