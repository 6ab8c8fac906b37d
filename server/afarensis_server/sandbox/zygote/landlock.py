"""Landlock: rules of the kernel about paths that hold even where mounts, users and permissions would not.

Code may read and run what lies in its root, and write in its own places. A file that it comes to by any other way, like
a descriptor of a directory outside, is refused; so are abstract sockets of others and signals to others.
"""

import os
import struct
from collections.abc import Sequence

from . import jail, syscalls

#: The first version in which files may be moved from one directory to another at all.
_LEAST_VERSION = 2

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIRECTORY = 1 << 3
#: Making and removing of all kinds but devices, which are bits 6 and 11.
_CHANGE = sum(1 << bit for bit in (4, 5, 7, 8, 9, 10, 12))
_MAKE_DEVICE = 1 << 6 | 1 << 11
_REFER = 1 << 13
_TRUNCATE = 1 << 14
#: Bind and connect by TCP.
_NETWORK = 0b11
#: Abstract sockets, and signals.
_SCOPES = 0b11

_READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY


def begin() -> int | None:
    """Start the rules with what all sessions share: a descriptor of them, or None where the kernel has no Landlock."""
    version = syscalls.landlock_version()
    if version < _LEAST_VERSION:
        return None
    files = _READ | _WRITE_FILE | _CHANGE | _MAKE_DEVICE | _REFER | _truncate(version)
    attributes = struct.pack("=Q", files)
    if version >= 4:
        attributes += struct.pack("=Q", _NETWORK)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    rules = syscalls.landlock_create_ruleset(attributes)
    _allow(rules, "/", _READ)
    for name in jail.DEVICES:
        _allow(rules, f"/dev/{name}", _READ_FILE | _WRITE_FILE | _truncate(version))
    return rules


def confine(rules: int, writable: Sequence[str]) -> None:
    """Add the places where this session may write, and bind this thread to the rules. Takes no_new_privs."""
    access = _READ | _WRITE_FILE | _CHANGE | _REFER | _truncate(syscalls.landlock_version())
    for path in writable:
        _allow(rules, path, access)
    syscalls.landlock_restrict_self(rules)
    os.close(rules)


def _truncate(version: int) -> int:
    return _TRUNCATE if version >= 3 else 0


def _allow(rules: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.landlock_add_rule(rules, struct.pack("=Qi", access, descriptor))
    finally:
        os.close(descriptor)
