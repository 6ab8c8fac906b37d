"""The mappings of this process, and a way to have fewer of them, since a fork copies each.

The loader maps a library in five parts: what lies before its code, the code, what lies behind it, data that is constant
once it was relocated, and data. The first three differ in their permissions alone, and so do the last two. With the
same permissions each group is one mapping, and a zygote has half as many. That takes nothing from its sessions, whose
code may change the permissions of its own memory as it likes; nothing can be written and executed.
"""

import ctypes
import mmap
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ (\d+) *(.*)")
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE
_EXECUTABLE = mmap.PROT_READ | mmap.PROT_EXEC


class Mapping(NamedTuple):
    """A line of /proc/self/maps."""

    start: int
    length: int
    permissions: str
    offset: int
    inode: int
    name: str

    def goes_on_in(self, other: "Mapping") -> bool:
        """Whether the other one maps the same file, from where this one ends."""
        end, offset = self.start + self.length, self.offset + self.length
        return (end, offset, self.inode, self.name) == (other.start, other.offset, other.inode, other.name)


def read(name: str = "") -> Iterator[Mapping]:
    """The mappings of this process with this in their names, by their addresses."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123 - not a file
        lines = maps.readlines()
    for line in lines:
        if name in line and (found := _LINE.fullmatch(line.rstrip("\n"))):
            start, end, permissions, offset, inode, its_name = found.groups()
            first = int(start, 16)
            yield Mapping(first, int(end, 16) - first, permissions, int(offset, 16), int(inode), its_name)


def join() -> None:
    """Give neighbours that map one file the same permissions. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for one, following in pairwise([mapping for mapping in read() if mapping.inode]):
        if not one.goes_on_in(following):
            continue
        changes = {
            ("r--p", "r-xp"): (one, _EXECUTABLE),
            ("r-xp", "r--p"): (following, _EXECUTABLE),
            ("r--p", "rw-p"): (one, _WRITABLE),
        }
        if (change := changes.get((one.permissions, following.permissions))) is None:
            continue
        mapping, protection = change
        if libc.mprotect(mapping.start, mapping.length, protection):
            raise OSError(ctypes.get_errno(), f"{mapping.name} cannot be mapped as its neighbour is")
