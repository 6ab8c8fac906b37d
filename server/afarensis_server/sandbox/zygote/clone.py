"""Forks into new namespaces with one system call, and maps the users of a user namespace."""

import ctypes
import os
import signal

from . import syscalls

CLONE_PIDFD = 0x1000
NEW_MOUNTS = 0x00020000
NEW_CGROUP = 0x02000000
NEW_UTS = 0x04000000
NEW_IPC = 0x08000000
NEW_USER = 0x10000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000

#: Everything but the user namespace.
NEW_VIEW = NEW_MOUNTS | NEW_CGROUP | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NETWORK


def fork(flags: int) -> tuple[int, int]:
    """Fork into new namespaces: the child's pid and a pidfd, or (0, -1) in the child.

    ``unshare`` and ``fork`` would copy the page tables twice, since a pid namespace is entered by being born in it. The
    raw call goes past libc, whose cached thread id stays the parent's: it is 1 in a zygote, as in the child, both being
    the first of their pid namespace.
    """
    pidfd = ctypes.c_int(-1)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = -1
    try:
        pid = syscalls.clone3(flags | CLONE_PIDFD, signal.SIGCHLD, pidfd)
    finally:
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
        else:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
    return (pid, pidfd.value) if pid else (0, -1)


def write_maps(pid: int | str, inside: int, outside: int, count: int) -> None:
    """Map ``count`` user and group ids of a process's user namespace, from ``inside`` to the parent's ``outside``."""
    line = f"{inside} {outside} {count}"
    if count == 1:
        # All that a user without privileges may map; it takes giving up setgroups, too.
        write(f"/proc/{pid}/setgroups", "deny")
    write(f"/proc/{pid}/gid_map", line)
    write(f"/proc/{pid}/uid_map", line)


def write(path: str, text: str) -> None:
    """Write a setting of the kernel's."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def enter_own_user_namespace() -> None:
    """Become root in a new user namespace and owner of a new mount namespace: all an ordinary user can have."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(NEW_USER | NEW_MOUNTS)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/gid_map", f"0 {gid} 1")
    write("/proc/self/uid_map", f"0 {uid} 1")
