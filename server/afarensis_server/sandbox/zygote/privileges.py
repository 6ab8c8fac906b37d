"""Gives up everything that a process does not need."""

import math
import os
import resource
import signal
from pathlib import Path

from . import syscalls

#: The user that code runs as, inside.
SESSION_USER = 1000
#: Higher than any capability that exists; the kernel says EINVAL from the first unknown one on.
_CAPABILITIES = 64
#: How much more than its data a process may map, where no group counts its memory.
_MAPPED_FACTOR = 4
#: SETGID, SETUID, SYS_ADMIN.
_ROOT_CAPABILITIES = (6, 7, 21)
#: NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE: set where a flag, and locked.
_SECURE_BITS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80


def is_host_root() -> bool:
    """Whether this process is root of the whole host, with the capabilities to mount and to give users away.

    Root of a container often is not, and is treated like an ordinary user.
    """
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        return False
    status = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return all(effective >> capability & 1 for capability in _ROOT_CAPABILITIES)


def threads_alive() -> int:
    """Threads of this process, those that Python knows nothing of included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no need of paths


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. Lost at every change of user: call it after."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def become(user: int) -> None:
    """Be this user and its group alone, in the own user namespace."""
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # A change of user takes away the access to one's own /proc/self.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def limit_capabilities() -> None:
    """Empty the set of capabilities that could ever be gained. Those that are held stay until ``drop_capabilities``."""
    for capability in range(_CAPABILITIES):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError:
            break


def drop_capabilities() -> None:
    """Empty the other four sets, for good."""
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.prctl(syscalls.PR_SET_SECUREBITS, _SECURE_BITS)
    syscalls.clear_capabilities()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def limit_resources(
    *, memory_bytes: int, memory_is_counted: bool, processes: int, open_files: int, file_bytes: int
) -> None:
    """Set the limits that each process has, beside the cgroup's for all of them together.

    ``memory_bytes`` is what the process may have beyond what it inherited from the zygote. Shared mappings are no data,
    so that without a group they are limited by what can be mapped at all, which programs take more of than they use.
    """
    mapped_bytes = _inherited_bytes("VmSize") + _MAPPED_FACTOR * memory_bytes
    limits = {
        resource.RLIMIT_AS: resource.RLIM_INFINITY if memory_is_counted else mapped_bytes,
        resource.RLIMIT_DATA: _inherited_bytes("VmData") + memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_MEMLOCK: 64 * 1024,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_SIGPENDING: 1024,
    }
    for which, value in limits.items():
        _limit(which, value)


def limit_core_files() -> None:
    """Set the one limit that cannot be set any more once the filter is there."""
    # Not 0: a host that pipes core files into a program would start that for a crash in here, with root's rights.
    _limit(resource.RLIMIT_CORE, 1)


def _limit(which: int, value: int) -> None:
    soft, hard = resource.getrlimit(which)
    limit = min((value, hard), key=_strictness)
    if (soft, hard) != (limit, limit):  # gVisor refuses to set some, whatever the value
        resource.setrlimit(which, (limit, limit))


def _strictness(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _inherited_bytes(kind: str) -> int:
    status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(status, 8192).decode()
    finally:
        os.close(status)
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{kind}:"))
