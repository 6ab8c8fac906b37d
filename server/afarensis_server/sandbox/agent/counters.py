"""What a container has used, as its own control group shows it inside, where it does."""

import os
from contextlib import suppress
from typing import NamedTuple

_ROOT = "/sys/fs/cgroup"
#: By what is counted: the files of version 2 and of version 1, each with the field in it, if it has fields.
_FILES = {
    "cpu": (("cpu.stat", "usage_usec", 1e-6), ("cpuacct/cpuacct.usage", "", 1e-9)),
    "memory": (("memory.current", "", 1), ("memory/memory.usage_in_bytes", "", 1)),
    "peak": (("memory.peak", "", 1), ("memory/memory.max_usage_in_bytes", "", 1)),
    "oom_kills": (("memory.events", "oom_kill", 1), ("memory/memory.oom_control", "oom_kill", 1)),
    "refused_forks": (("pids.events", "max", 1), ("pids/pids.events", "max", 1)),
}
#: More than any of these files has.
_SIZE = 4096


class Usage(NamedTuple):
    """What was used so far; None where nobody counts it."""

    cpu_seconds: float | None
    #: The most memory since the container was ready, beyond what it took then.
    peak_memory_bytes: int | None
    oom_kills: int
    refused_forks: int


class Counters:
    """Reads the counters of this container."""

    def __init__(self) -> None:
        self._open = {name: self._find(places) for name, places in _FILES.items()}
        self._base = 0

    def rebase(self) -> None:
        """Count memory from here on: what is used now is the agent's own."""
        self._base = int(self._read("memory") or 0)

    def usage(self) -> Usage:
        """Read all of them."""
        peak = self._read("peak")
        return Usage(
            cpu_seconds=self._read("cpu"),
            peak_memory_bytes=None if peak is None else max(0, int(peak) - self._base),
            oom_kills=int(self._read("oom_kills") or 0),
            refused_forks=int(self._read("refused_forks") or 0),
        )

    @staticmethod
    def _find(places: "tuple[tuple[str, str, float], ...]") -> "tuple[int, str, float] | None":
        for path, field, unit in places:
            with suppress(OSError):
                return os.open(f"{_ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC), field, unit
        return None

    def _read(self, name: str) -> float | None:
        found = self._open[name]
        if found is None:
            return None
        descriptor, field, unit = found
        try:
            text = os.pread(descriptor, _SIZE, 0).decode()
        except OSError:
            return None
        for line in text.splitlines():
            *names, value = line.split()
            if names == ([field] if field else []) and value.isdigit():
                return int(value) * unit
        return None
