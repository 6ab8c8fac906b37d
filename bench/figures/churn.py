"""How many sessions come and go in a second, and who works for it."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial

from .. import processes
from ..contenders import Arena, Server, environment, guest_python
from ..report import Figure, Role, Series, ratio

_CLIENTS = 4
#: Names the image for `docker run`; it needs a `python` and is not fetched.
_IMAGE = "BENCH_IMAGE"
_PRINT = "print(1)"


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="afarensis-bench-") as fonts:
        yield await _measure(arena, fonts)


async def _measure(arena: Arena, fonts: str) -> Figure:
    contenders: list[tuple[Series, Callable[[], Coroutine[None, None, float]]]] = [
        (
            Series("`CreateSession` and `CloseSession`, one client", Role.OURS, "/s"),
            partial(_rate, partial(_open_and_close, arena.server), arena.times(150), 1),
        ),
        (
            Series(f"the same, {_CLIENTS} clients", Role.OURS, "/s"),
            partial(_rate, partial(_open_and_close, arena.server), arena.times(200), _CLIENTS),
        ),
    ]
    notes = []
    for name, command, absence in _peers(fonts):
        if command is None:
            notes.append(f"absent: {absence}")
        else:
            series = Series(name, Role.PEER, "/s")
            contenders.append((series, partial(_rate, partial(_run, command), arena.times(8), 1)))
    before = _costs(arena.server)
    for _ in range(arena.times(3)):
        for series, rate in contenders:
            series.rounds.append([await rate()])
    count = arena.times(3) * (arena.times(150) + arena.times(200))
    notes.insert(0, _where(before, _costs(arena.server), count))
    all_series = [series for series, _ in contenders]
    return Figure(
        "Open and close",
        all_series,
        [ratio(f"Open and close: our rate over {peer.name}", all_series[0], peer) for peer in all_series[2:]],
        notes,
    )


def _peers(fonts: str) -> list[tuple[str, list[str] | None, str]]:
    """Name, command, and what is missing when there is none."""
    found: list[tuple[str, list[str] | None, str]] = []
    # matplotlib would look through all fonts again wherever it cannot keep what it found.
    python = ["--bind", fonts, fonts, "--setenv", "MPLCONFIGDIR", fonts, guest_python(), "-I", "-c"]
    if bwrap := shutil.which("bwrap"):
        jail = [
            bwrap,
            "--unshare-all",
            "--die-with-parent",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ]
        found.append(("`bwrap` and `python`, no imports", [*jail, *python, _PRINT], ""))
        imports = "import numpy, pandas, matplotlib.pyplot; print(1)"
        found.append(("`bwrap` and `python` with numpy, pandas, pyplot", [*jail, *python, imports], ""))
    else:
        found.append(("`bwrap`", None, "`bwrap` is not installed (Debian: `apt-get install bubblewrap`)"))
    image = os.environ.get(_IMAGE, "python:3.11-slim")
    command, absence = ["docker", "run", "--rm", "--network=none", image, "python", "-c", _PRINT], ""
    if not _succeeds("docker", "version"):
        absence = "`docker run`: no engine answers here"
    elif not _succeeds("docker", "image", "inspect", image):
        absence = f"`docker run`: the engine has no image {image} (name another one in {_IMAGE})"
    found.append((f"`docker run` of {image}", None if absence else command, absence))
    return found


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


async def _rate(work: Callable[[], Coroutine[None, None, None]], count: int, clients: int) -> float:
    """How often some clients together do something in a second."""

    async def client() -> None:
        for _ in range(count // clients):
            await work()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return count // clients * clients / (time.perf_counter() - start)


async def _open_and_close(server: Server) -> None:
    await server.close(await server.open())


async def _run(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, env=environment()
    )
    if await process.wait():
        raise RuntimeError(f"{command} failed")


def _costs(server: Server) -> dict[str, float]:
    """Seconds of processor time so far, by who used it."""
    below = processes.descendants(server.pid)
    (supervisor,) = (pid for pid in below if "zygote.supervisor" in processes.command(pid))
    # Its children's children, the sessions, count with their zygote once they have ended.
    zygotes = [processes.cpu(pid) for pid in processes.children(supervisor)]
    forked = sum(one.user + one.system + one.children for one in zygotes)
    own, over = processes.cpu(server.pid), processes.cpu(supervisor)
    return {
        "the server": own.user + own.system,
        "the supervisor": over.user + over.system,
        "zygotes and the sessions' processes": over.children + forked,
        "this client": sum(os.times()[:2]),
    }


def _where(before: dict[str, float], after: dict[str, float], count: int) -> str:
    parts = [f"{(after[name] - before[name]) / count * 1e3:.1f} ms {name}" for name in before]
    return f"Processor time for each session opened and closed: {', '.join(parts)}."
