"""The system calls that Python does not offer, through libc.

Each raises OSError with the call's name. They hold the GIL (PyDLL): some run where Python must not switch threads.
"""

import ctypes
import os
import platform

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

MACHINE = platform.machine()
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
# Numbers from here on are the same on every machine.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_CLONE3 = 435
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

_OPEN_TREE_CLONE = 0x1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


def _check(name: str, result: int, *, path: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", path)
    return result


def _call(name: str, number: int, *arguments: object) -> int:
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(name, _libc.syscall(ctypes.c_long(number), *converted))


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Call mount(2)."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind is not None else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check("mount", result, path=target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Call umount2(2)."""
    _check("umount", _libc.umount2(target.encode(), flags), path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Call pivot_root(2)."""
    _call("pivot_root", _PIVOT_ROOT[MACHINE], new_root.encode(), put_old.encode())


def open_tree(path: str) -> int:
    """Clone the mount at a path; the descriptor holds the clone, attached nowhere."""
    return _call("open_tree", _OPEN_TREE, AT_FDCWD, path.encode(), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)


def move_mount(tree: int, target: str) -> None:
    """Attach the mount that a descriptor holds."""
    _call("move_mount", _MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(target: str, attributes: int) -> None:
    """Set attributes of the mount at a path and of all below it."""
    value = _MountAttributes(attributes, 0, 0, 0)
    _call(
        "mount_setattr",
        _MOUNT_SETATTR,
        AT_FDCWD,
        target.encode(),
        AT_RECURSIVE,
        ctypes.byref(value),
        ctypes.sizeof(value),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open a path below a directory descriptor, under the rules of ``resolve``."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return _call("openat2", _OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how))


class _CloneArguments(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
    )


def clone3(flags: int, exit_signal: int, pidfd: ctypes.c_int) -> int:
    """Call clone3(2); the process id, or 0 in the child. For ``clone.fork``, which does what Python needs around it."""
    value = _CloneArguments(flags, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0)
    return _call("clone3", _CLONE3, ctypes.byref(value), ctypes.sizeof(value))


def close_range(first: int, last: int) -> None:
    """Close all descriptors from ``first`` to ``last``."""
    _call("close_range", _CLOSE_RANGE, first, last, 0)


def unshare(flags: int) -> None:
    """Call unshare(2)."""
    _check("unshare", _libc.unshare(flags))


def set_hostname(name: str) -> None:
    """Call sethostname(2)."""
    encoded = name.encode()
    _check("sethostname", _libc.sethostname(encoded, len(encoded)))


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2)."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _check("prctl", _libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)))


def clear_capabilities() -> None:
    """Give up every capability in the effective, permitted and inheritable sets."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    _check("capset", _libc.capset(header, sets))


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter, an array of 8-byte BPF instructions, on this thread."""
    buffer = ctypes.create_string_buffer(program, len(program))
    value = _FilterProgram(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _call("seccomp", _SECCOMP[MACHINE], 1, 0, ctypes.byref(value))


def landlock_version() -> int:
    """The version of Landlock's interface, 0 where the kernel has none."""
    try:
        return _call("landlock", _LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_create_ruleset(attributes: bytes) -> int:
    """Call landlock_create_ruleset(2); the descriptor of the rules."""
    return _call("landlock_create_ruleset", _LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)


def landlock_add_rule(rules: int, rule: bytes) -> None:
    """Call landlock_add_rule(2) with what is allowed beneath a path."""
    _call("landlock_add_rule", _LANDLOCK_ADD_RULE, rules, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)


def landlock_restrict_self(rules: int) -> None:
    """Call landlock_restrict_self(2)."""
    _call("landlock_restrict_self", _LANDLOCK_RESTRICT_SELF, rules, 0)


def supported() -> bool:
    """Whether the numbers of this machine's calls are known."""
    return MACHINE in _PIVOT_ROOT
