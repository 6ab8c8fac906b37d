"""Control groups of sessions: version 2, version 1, or none, as the host has them.

Files in /mnt/data, /tmp and /dev/shm lie in memory and count as their session's, so that the sum of all sessions'
``memory_bytes`` is what they can take.
"""

import errno
import os
import secrets
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ..driver import SandboxUnavailable, SessionLimits
from .settings import CgroupMode

#: Of the directories that hold the groups of one driver's sessions; the server's process id follows.
_PREFIX = "afarensis-"
_PERIOD_MICROSECONDS = 100_000
#: More than any of the files that are read has.
_COUNTER_BYTES = 4096
#: Files that are also written.
_ACCESS = {"memory.max_usage_in_bytes": os.O_RDWR}
_CONTROLLERS = ("memory", "cpu", "pids")
#: In version 1 processor time is counted by a controller of its own.
_VERSION_1 = (*_CONTROLLERS, "cpuacct")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session has used so far, as far as the host counts it."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    #: Processes that the kernel ended since they were out of their group's memory.
    oom_kills: int = 0
    #: Processes and threads that were refused since there were too many.
    fork_refusals: int = 0


class Cgroup:
    """The group of one session."""

    def __init__(self, version: int, directories: dict[str, Path]) -> None:
        self._version = version
        self._directories = directories
        self._files = _Files(directories)
        self._limits: SessionLimits | None = None

    def set_limits(self, limits: SessionLimits) -> None:
        """Bind the session to its limits, unless it is."""
        if limits == self._limits:
            return
        self._limits = limits
        quota = max(1000, int(limits.cpu_cores * _PERIOD_MICROSECONDS))
        if self._version == 2:
            self._write("memory", "memory.max", limits.memory_bytes)
            self._write("memory", "memory.swap.max", 0, optional=True)
            self._write("pids", "pids.max", limits.processes)
            self._write("cpu", "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")
        elif self._version == 1:
            # It may not be above that of memory and swap together, which it was given for other limits.
            self._write("memory", "memory.memsw.limit_in_bytes", -1, optional=True)
            self._write("memory", "memory.limit_in_bytes", limits.memory_bytes)
            self._write("memory", "memory.memsw.limit_in_bytes", limits.memory_bytes, optional=True)
            self._write("pids", "pids.max", limits.processes)
            self._write("cpu", "cpu.cfs_period_us", _PERIOD_MICROSECONDS)
            self._write("cpu", "cpu.cfs_quota_us", quota)

    def lift_cpu_limit(self) -> None:
        """Let the processes of the group have all the processor time there is, until limits are set again.

        For those that were killed: dying takes time, too, and a group that used up its share gets none for a while.
        """
        self._limits = None
        with suppress(OSError):  # then they die more slowly
            if self._version == 2:
                self._write("cpu", "cpu.max", f"max {_PERIOD_MICROSECONDS}")
            elif self._version == 1:
                self._write("cpu", "cpu.cfs_quota_us", -1)

    def open_entrances(self) -> list[int]:
        """Files that a process with one thread enters the group by, by writing 0; none where it has to be put there.

        The descriptors are the caller's to close. In version 1 a thread that moves itself is spared the lock that every
        other move waits for; who opened the files must be allowed to move it.
        """
        if self._version != 1:
            return []
        with ExitStack() as opened:
            entrances = []
            for directory in set(self._directories.values()):
                entrances.append(os.open(directory / "tasks", os.O_WRONLY | os.O_CLOEXEC))
                opened.callback(os.close, entrances[-1])
            opened.pop_all()
            return entrances

    def attach(self, pid: int) -> None:
        """Put a process into the group, and with it all it will start."""
        for directory in set(self._directories.values()):
            (directory / "cgroup.procs").write_text(str(pid))

    @property
    def limits_memory(self) -> bool:
        """Whether the group binds the session's memory as a whole."""
        return "memory" in self._directories

    @property
    def limits_processes(self) -> bool:
        """Whether the group binds the number of the session's processes and threads."""
        return "pids" in self._directories

    def usage(self) -> Usage:
        """Read the counters."""
        if self._version == 2:
            kills = self._field("memory", "memory.events", b"oom_kill") or 0
            return Usage(self.cpu_seconds(), self._number("memory", "memory.peak"), kills, self._fork_refusals())
        if self._version == 1:
            kills = self._field("memory", "memory.oom_control", b"oom_kill") or 0
            peak = self._number("memory", "memory.max_usage_in_bytes")
            return Usage(self.cpu_seconds(), peak, kills, self._fork_refusals())
        return Usage()

    def cpu_seconds(self) -> float | None:
        """Processor time of all processes so far; None where nobody counts it."""
        if self._version == 2:
            used = self._field("cpu", "cpu.stat", b"usage_usec")
            return None if used is None else used / 1e6
        used = self._number("cpuacct", "cpuacct.usage") if self._version == 1 else None
        return None if used is None else used / 1e9

    def reset_peak(self) -> None:
        """Start to look for a new peak, where the kernel lets us."""
        descriptor = self._files["memory", "memory.max_usage_in_bytes"] if self._version == 1 else -1
        if descriptor >= 0:
            with suppress(OSError):
                os.pwrite(descriptor, b"0", 0)

    def remove(self) -> bool:
        """Remove the group, once its processes are gone; whether that worked."""
        for descriptor in self._files.values():
            if descriptor >= 0:
                os.close(descriptor)
        self._files.clear()
        removed = True
        for directory in set(self._directories.values()):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                removed = False
        return removed

    def _fork_refusals(self) -> int:
        return self._field("pids", "pids.events", b"max") or 0

    def _write(self, controller: str, name: str, value: int | str, *, optional: bool = False) -> None:
        directory = self._directories.get(controller)
        if directory is None:
            return
        try:
            (directory / name).write_text(str(value))
        except OSError:
            if not optional:
                raise

    def _read(self, controller: str, name: str) -> bytes:
        descriptor = self._files[controller, name]
        try:
            return os.pread(descriptor, _COUNTER_BYTES, 0) if descriptor >= 0 else b""
        except OSError:
            return b""

    def _number(self, controller: str, name: str) -> int | None:
        """The number in a file; None where there is none."""
        text = self._read(controller, name).rstrip()
        return int(text) if text.isdigit() else None

    def _field(self, controller: str, name: str, field: bytes) -> int | None:
        """The number of a field, in a file with one on each line; None where there is none."""
        _, _, rest = (b"\n" + self._read(controller, name)).partition(b"\n" + field + b" ")
        text = rest.partition(b"\n")[0]
        return int(text) if text.isdigit() else None


class _Files(dict[tuple[str, str], int]):
    """The files of a group that are used with every execution, by controller and name; -1 where there is none.

    Opened when they are first asked for, and kept open, since that takes longer than reading them.
    """

    def __init__(self, directories: dict[str, Path]) -> None:
        super().__init__()
        self._directories = directories

    def __missing__(self, key: tuple[str, str]) -> int:
        controller, name = key
        self[key] = -1
        if (directory := self._directories.get(controller)) is not None:
            with suppress(OSError):
                self[key] = os.open(f"{directory}/{name}", _ACCESS.get(name, os.O_RDONLY) | os.O_CLOEXEC)
        return self[key]


class Cgroups:
    """Makes groups for sessions below the server's own."""

    def __init__(self, version: int, parents: dict[str, Path], detail: str) -> None:
        #: 2, 1, or 0 for none.
        self.version = version
        self.detail = detail
        self._parents = parents
        #: The group that the server is in, where it has to move others.
        self._own = _own_group() if version == 2 else None
        self._leftover: list[Cgroup] = []
        self._left_by_the_dead = [
            group for place in {parent.parent for parent in parents.values()} for group in _left_by_the_dead(place)
        ]
        self._sweep()

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(self._parents)

    @classmethod
    def find(cls, mode: CgroupMode) -> "Cgroups":
        """Find out what this host offers to this process, by trying."""
        if mode is CgroupMode.OFF:
            return cls(0, {}, "turned off by the setting cgroups")
        problems: list[str] = []
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        for version, finder in ((2, _find_version_2), (1, _find_version_1)):
            try:
                parents = finder(name)
            except OSError as error:
                problems.append(f"version {version}: {error.strerror} ({error.filename})")
                continue
            if {"memory", "pids"} <= set(parents) and (mode is CgroupMode.AUTO or "cpu" in parents):
                found = ", ".join(sorted(parents))
                return cls(version, parents, f"version {version}, with {found}")
            problems.append(f"version {version}: only {', '.join(sorted(parents)) or 'nothing'} to use")
        detail = "; ".join(problems)
        if mode is CgroupMode.REQUIRED:
            raise SandboxUnavailable(f"the setting cgroups requires control groups, and this host gives none: {detail}")
        return cls(0, {}, detail)

    def create(self, name: str) -> Cgroup:
        """Make a group."""
        self._leftover = [group for group in self._leftover if not group.remove()]
        self._sweep()
        directories = {controller: parent / name for controller, parent in self._parents.items()}
        for directory in set(directories.values()):
            # With its parent, should somebody have tidied up.
            directory.mkdir(parents=True, exist_ok=True)
        return Cgroup(self.version, directories)

    def warm_up(self) -> None:
        """Have the kernel get ready to move a process into a group; what follows within milliseconds moves at once.

        A move takes a lock for which the kernel waits until every processor has passed a quiet state (10 ms, measured),
        and which it keeps easy to take for a while. So this moves the server to where it is.
        """
        if self._own is not None:
            with suppress(OSError):  # the move itself takes its time then
                (self._own / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self, group: Cgroup) -> None:
        """Remove a group; one that is still busy is tried again with the next."""
        if not group.remove():
            self._leftover.append(group)

    def close(self) -> None:
        """Remove all that is left, the parents included."""
        for group in self._leftover:
            group.remove()
        self._sweep()
        for parent in set(self._parents.values()):
            with suppress(OSError):
                parent.rmdir()

    def _sweep(self) -> None:
        """Remove what others left; their processes may take a while to end, and then it is tried again."""
        self._left_by_the_dead = [group for group in self._left_by_the_dead if not _is_removed(group)]


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _find_version_1(name: str) -> dict[str, Path]:
    own = _own_groups()
    parents: dict[str, Path] = {}
    for kind, root, mount_point, options in _mounts():
        if kind != "cgroup":
            continue
        for controller in set(options) & set(_VERSION_1):
            place = _below(mount_point, root, own.get(controller, "/"))
            parents[controller] = _make_parent(place, name)
    return parents


def _find_version_2(name: str) -> dict[str, Path]:
    own = _own_groups()
    for kind, root, mount_point, _ in _mounts():
        if kind == "cgroup2":
            place = _below(mount_point, root, own.get("", "/"))
            return _delegate(_find_delegated(place, mount_point), name)
    return {}


def _find_delegated(place: Path, mount_point: Path) -> Path:
    """Where groups may be made: below the server's own group if it has that for itself, or below the root of all.

    A group with processes cannot hand its controllers down, and the processes of others are not ours to move.
    """
    if set((place / "cgroup.procs").read_text().split()) <= {str(os.getpid())}:
        return place
    if not (mount_point / "cgroup.type").exists():
        return mount_point
    raise OSError(errno.EBUSY, "other processes are in the server's group", str(place))


def _delegate(place: Path, name: str) -> dict[str, Path]:
    """Make our group hand its controllers down, which takes that no process is in the group itself."""
    offered = set((place / "cgroup.controllers").read_text().split()) & set(_CONTROLLERS)
    if not {"memory", "pids"} <= offered:
        return {}
    enabled = set((place / "cgroup.subtree_control").read_text().split())
    if missing := offered - enabled:
        if (place / "cgroup.type").exists():  # not the root of all, which may hold processes
            server = place / "afarensis-server"
            server.mkdir(exist_ok=True)
            (server / "cgroup.procs").write_text(str(os.getpid()))
        _enable(place, missing)
    parent = _make_parent(place, name)
    _enable(parent, offered)
    return dict.fromkeys(offered, parent)


def _make_parent(place: Path, name: str) -> Path:
    """The directory of one driver's sessions."""
    parent = place / name
    parent.mkdir(exist_ok=True)
    return parent


def _left_by_the_dead(place: Path) -> list[Path]:
    """What servers that were killed left in a directory and beside it, each group before the one that it is in."""
    left: list[Path] = []
    # A server that is started anew may have a group beside its former one.
    for neighbour in (place, *_directories(place.parent)):
        for old in _directories(neighbour):
            pid = old.name.removeprefix(_PREFIX).partition("-")[0]
            if old.name.startswith(_PREFIX) and pid.isdigit() and not Path("/proc", pid).exists():
                left += [*_directories(old), old]
    return left


def _directories(place: Path) -> list[Path]:
    """The directories in a directory, none if it is gone or closed to us."""
    try:
        return [Path(entry.path) for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _enable(place: Path, controllers: set[str]) -> None:
    (place / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(controllers)))


def _own_groups() -> dict[str, str]:
    """The path of this process's group by controller; version 2's under the empty name."""
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _own_group() -> Path | None:
    """The directory of the version 2 group that this process is in, where a mount shows it."""
    group = _own_groups().get("", "/")
    return next((_below(place, root, group) for kind, root, place, _ in _mounts() if kind == "cgroup2"), None)


def _mounts() -> list[tuple[str, str, Path, list[str]]]:
    """Kind, root, mount point and super options of every mount."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        first, _, second = line.partition(" - ")
        fields, kind = first.split(), second.split()
        mounts.append((kind[0], fields[3], Path(fields[4]), kind[2].split(",")))
    return mounts


def _below(mount_point: Path, root: str, group: str) -> Path:
    """Where a group's directory is, under a mount that shows the hierarchy from ``root`` on."""
    relative = os.path.relpath(group, root)
    return mount_point if relative.startswith("..") else mount_point / relative
