"""Opens and closes sessions by the thousand, and looks for what they leave behind: ``python -m bench.soak [SESSIONS]``.

Every tenth session leaves a process behind, and every tenth is closed while its code runs: leaving is where leaks come
from. What is counted must be what it was after the first sessions, but for memory, which may differ by a little. With
``--minutes``, see `soak_runs` instead.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from afarensis_server.sandbox.driver import SessionLimits, SessionSpec
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings

from . import soak_runs
from .processes import children, descendants

_GUEST_PYTHON = Path(__file__).parent.parent / ".guest" / "bin" / "python"
_MIB = 2**20
_LIMITS = SessionLimits(
    memory_bytes=256 * _MIB,
    cpu_cores=1.0,
    processes=64,
    open_files=256,
    disk_bytes=16 * _MIB,
    disk_inodes=500,
    output_bytes=_MIB,
    display_bytes=_MIB,
)
#: Sessions at one time.
_TOGETHER = 4
#: Sessions before the first count: what is made once is made by then.
_WARM_UP = 50
#: Seconds until what is ended in the background must be gone.
_SETTLE_SECONDS = 20.0
#: Bytes by which the memory of a process may grow however many sessions there were.
_MEMORY_SLACK = 16 * _MIB


@dataclass(frozen=True, slots=True)
class Count:
    """What there is of everything that a session takes, while none is open."""

    processes: int
    mounts: int
    cgroups: int
    users: int
    server_descriptors: int
    other_descriptors: int
    files: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each process that no file holds, also those that a zygote shares with its sessions."""

    server: int
    supervisor: int
    zygote: int


class Soak:
    """A driver, and what can be seen of it from outside."""

    def __init__(self, driver: LocalSandbox, directory: Path) -> None:
        self._driver = driver
        self._directory = directory
        assert driver._launcher is not None  # noqa: SLF001 - a soak looks behind everything
        self._launcher = driver._launcher  # noqa: SLF001 - as above
        self._supervisor = self._launcher.supervisor._process.pid  # noqa: SLF001 - as above

    async def run(self, sessions: int) -> None:
        """Open, use and close that many sessions, a few at a time."""
        numbers = iter(range(sessions))

        async def work() -> None:
            for number in numbers:
                await self._use(number)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_TOGETHER):
                tasks.create_task(work())

    async def count(self) -> Count:
        """What there is, once it is the same twice and no zygote starts: the pool refills in the background.

        A zygote that was replaced ends with the last session it made, which may wait in the pool: some more are used.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        before, now = None, self._count()
        while (now != before or self._is_replacing_zygote()) and time.monotonic() < deadline:
            await self.run(_TOGETHER)
            await asyncio.sleep(1.0)
            before, now = now, self._count()
        return now

    def memory(self) -> Memory:
        """The memory of the three processes; of the zygotes, the largest's."""
        gc.collect()
        zygote = max(children(self._supervisor), key=_anonymous)
        return Memory(_anonymous(os.getpid()), _anonymous(self._supervisor), _anonymous(zygote))

    def _is_replacing_zygote(self) -> bool:
        """Whether there are two zygotes for now, of which one still imports what the other has."""
        replacing = self._launcher._replacing  # noqa: SLF001
        return replacing is not None and not replacing.done()

    async def _use(self, number: int) -> None:
        session = await self._driver.open(SessionSpec(f"soak-{number}", _LIMITS))
        try:
            code = "open('a.txt', 'w').write('x' * 1000); print(1)"
            if number % 10 == 1:
                code = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True); print(1)"
            elif number % 10 == 2:
                code = "print(1, flush=True)\nwhile True: pass"
            async for _ in session.execute(code, timeout_seconds=30):
                if number % 10 == 2:
                    await session.close()
        finally:
            await session.close()

    def _count(self) -> Count:
        below = descendants(self._supervisor) | {self._supervisor}
        return Count(
            processes=len(below),
            mounts=_lines(os.getpid()) + sum(map(_lines, below)),
            cgroups=sum(len(found) for parent in _groups(self._launcher.cgroups) for _, found, _ in os.walk(parent)),
            users=len(self._launcher._users),  # noqa: SLF001
            server_descriptors=_descriptors(os.getpid()),
            other_descriptors=sum(map(_descriptors, below)),
            files=sum(len(names) + len(found) for _, found, names in os.walk(self._directory)),
            tasks=len(asyncio.all_tasks()),
        )


async def soak(sessions: int, every: int, guest_python: Path = _GUEST_PYTHON) -> tuple[list[Count], list[Memory]]:
    """Counts and memory after the warm-up and after each ``every`` sessions."""
    former = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="afarensis-soak-") as directory, ExitStack() as stack:
        stack.callback(setattr, tempfile, "tempdir", former)
        work_directory = Path(directory) / "work"
        settings = LocalSandboxSettings(guest_python=guest_python, work_directory=work_directory, max_sessions=20)
        # So that what is left there counts, and nothing of anybody else's.
        tempfile.tempdir = directory
        async with LocalSandbox(settings) as driver:
            watch = Soak(driver, Path(directory))
            await watch.run(_WARM_UP)
            counts, memories = [await watch.count()], [watch.memory()]
            for done in range(0, sessions, every):
                began = time.monotonic()
                await watch.run(every)
                rate = every / (time.monotonic() - began)
                counts.append(await watch.count())
                memories.append(watch.memory())
                print(f"{done + every:>6} sessions, {rate:>5.0f}/s  {counts[-1]}  {_in_mib(memories[-1])}", flush=True)
    return counts, memories


def leaks(counts: list[Count], memories: list[Memory]) -> list[str]:
    """What grew."""
    found = []
    if counts[-1] != counts[0]:
        found.append(f"{counts[0]} became {counts[-1]}")
    for name in ("server", "supervisor", "zygote"):
        before, after = getattr(memories[0], name), getattr(memories[-1], name)
        if after > before + _MEMORY_SLACK:
            found.append(f"the memory of the {name} grew from {before} to {after} bytes")
    return found


def _groups(cgroups: object) -> set[Path]:
    parents: dict[str, Path] = cgroups._parents  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return set(parents.values())


def _lines(pid: int) -> int:
    return len(Path(f"/proc/{pid}/mounts").read_text().splitlines())


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except PermissionError:
        return 0  # a session's, to a server that is not root


def _anonymous(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


def _in_mib(memory: Memory) -> str:
    sizes = (("server", memory.server), ("supervisor", memory.supervisor), ("zygote", memory.zygote))
    return ", ".join(f"{name} {size / _MIB:.1f} MiB" for name, size in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sessions", type=int, nargs="?", default=10_000)
    parser.add_argument("--minutes", type=float, help="instead: use a whole server, runs above all, for so long")
    arguments = parser.parse_args()
    if arguments.minutes is not None:
        raise SystemExit(soak_runs.main(arguments.minutes))
    counts, memories = asyncio.run(soak(arguments.sessions, min(1_000, arguments.sessions)))
    found = leaks(counts, memories)
    print("\n".join(found) or f"Nothing is left of {arguments.sessions} sessions.")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
