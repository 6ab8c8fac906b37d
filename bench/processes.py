"""What the kernel says of processes."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time; those of children that have ended and were waited for apart."""

    user: float
    system: float
    children: float

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user - other.user, self.system - other.system, self.children - other.children)


def cpu(pid: int) -> Cpu:
    user, system, child_user, child_system = (int(value) / _TICK for value in _stat(pid)[11:15])
    return Cpu(user, system, child_user + child_system)


def descendants(pid: int) -> set[int]:
    """All processes below one, as they are now."""
    by_parent = _by_parent()
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = by_parent.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def children(pid: int) -> list[int]:
    return _by_parent().get(pid, [])


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def private_bytes(pid: int) -> int:
    """Memory that would be free if the process ended."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")


def memory_in_use() -> int:
    """Bytes of the machine that are not available to a new process."""
    return _kilobytes(Path("/proc/meminfo"), "MemTotal:") - _kilobytes(Path("/proc/meminfo"), "MemAvailable:")


def cached_bytes() -> int:
    """Bytes of files and of tmpfs in the machine's memory."""
    return _kilobytes(Path("/proc/meminfo"), "Cached:")


def _kilobytes(file: Path, *names: str) -> int:
    return sum(int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith(names))


def _by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # One that has ended meanwhile has no parent any more.
            with suppress(OSError):
                found.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold anything: the state is number 0."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
