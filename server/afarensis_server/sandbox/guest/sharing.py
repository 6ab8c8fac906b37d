"""Memory that a session shares with its zygote, and shares again after it was written to.

Using a Python object writes its reference count, and so copies the page that a session had in common with all others.
When the code is done, most counts are what they were, and the copy is the same as the original again. Memory that was
copied stays copied, though. So the zygote moves its own to a sealed file, which sessions map privately: a page that is
as in the file can be dropped, since the file's page shows in its place.

It takes a small library (`sharing.c`), which `make setup` builds where there is a C compiler. Without it, sessions take
more memory, and nothing else is different.
"""

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import mappings
from .mappings import Mapping

#: Beside this module; see `sharing.c`.
LIBRARY = Path(__file__).with_name("_sharing.so")
_NAME = "afarensis-zygote"

#: F_ADD_SEALS; and never to be written, resized or unsealed.
_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
_MADV_POPULATE_READ = 22
#: Bytes of memory that are worth moving: what is smaller is the linker's and libc's own.
_LEAST = 256 * 1024


class _Original(NamedTuple):
    """The zygote's memory as it was when it was moved."""

    inode: int
    #: Where all of it can be read; sessions map it privately too, so that nobody writes to what others see.
    copy: int


_original: _Original | None = None


def move() -> bool:
    """Move this process's memory to a file that its children share; whether that could be done.

    To be called once, by a process with one thread, when all that children are to have in common is there.
    """
    global _original  # noqa: PLW0603 - of the process, like its memory
    library = _library()
    if library is None:
        return False
    found = [region for region in mappings.read() if _is_worth_moving(region)]
    regions = [part for region in found for part in _without_large(region, library) if part.length >= _LEAST]
    size = sum(region.length for region in regions)
    file = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        offset = 0
        for region in regions:
            if code := library.afarensis_move(region.start, region.length, file, offset):
                raise OSError(code, f"memory could not be moved: {os.strerror(code)}")
            offset += region.length
        fcntl.fcntl(file, _ADD_SEALS, _ALL_SEALS)
        copy = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, file, 0)
        if copy == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "the moved memory cannot be read")
        _original = _Original(os.fstat(file).st_ino, copy)
    finally:
        os.close(file)
    # So that no session is the only one that maps a page. Older kernels do not know it, and count otherwise.
    _libc().madvise(copy, size, _MADV_POPULATE_READ)
    return True


def give_back(known_threads: int) -> int:
    """Drop what is as the zygote had it; how many bytes that was.

    Only when this process has no more threads than these, of which none may write to memory without the interpreter's
    lock: what another one writes meanwhile would be lost.
    """
    library = _library()
    if library is None or _original is None or len(os.listdir("/proc/self/task")) > known_threads:  # noqa: PTH208
        return 0
    # What lies at these addresses now: code may have unmapped some, and mapped something of its own.
    mine = [one for one in mappings.read(_NAME) if one.inode == _original.inode and one.permissions == "rw-p"]
    pages = 0
    with suppress(OSError):
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for one in mine:
                pages += max(
                    0, library.afarensis_give_back(one.start, one.length, _original.copy + one.offset, pagemap)
                )
        finally:
            os.close(pagemap)
    return pages * mmap.PAGESIZE


def _library() -> ctypes.PyDLL | None:
    """The library. Called without giving up the interpreter's lock, since no Python may run meanwhile."""
    try:
        library = ctypes.PyDLL(str(LIBRARY))
    except OSError:
        return None
    library.afarensis_find_large.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.POINTER(ctypes.c_long))
    library.afarensis_find_large.restype = ctypes.c_long
    library.afarensis_move.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_long)
    library.afarensis_give_back.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_int)
    library.afarensis_give_back.restype = ctypes.c_long
    return library


def _libc() -> ctypes.PyDLL:
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _is_worth_moving(region: Mapping) -> bool:
    """Whether it is memory of this process's own that is in use: the heap, and what Python's allocator took."""
    is_memory = region.permissions == "rw-p" and region.inode == 0 and region.name in ("", "[heap]")
    return is_memory and region.length >= _LEAST and 2 * _resident(region) >= region.length


def _without_large(region: Mapping, library: ctypes.PyDLL) -> Iterator[Mapping]:
    """What is left of a region without what libc mapped for single large allocations.

    Such a mapping grows with its allocation, and in the file there is nothing to grow into. libc can be told to make
    none at all (M_MMAP_MAX), but then goes on to make work with arrays slower, up to ten times.
    """
    offset = ctypes.c_long()
    while length := library.afarensis_find_large(region.start, region.length, ctypes.byref(offset)):
        yield region._replace(length=offset.value)
        behind = offset.value + length
        region = region._replace(start=region.start + behind, length=region.length - behind)
    yield region


def _resident(region: Mapping) -> int:
    """Bytes of a region that are in memory."""
    with open("/proc/self/pagemap", "rb", 0) as pagemap:  # noqa: PTH123 - not a file
        pagemap.seek(region.start // mmap.PAGESIZE * 8)
        entries = pagemap.read(region.length // mmap.PAGESIZE * 8)
    # The highest bit of each entry, little-endian.
    return sum(entry >> 7 for entry in entries[7::8]) * mmap.PAGESIZE
