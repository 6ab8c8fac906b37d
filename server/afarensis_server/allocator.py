"""How glibc gives memory back: a server that was busy once is to be small again.

By default each of gRPC's and the store's threads has an arena of its own, and what was allocated for one reader keeps
the pages of many others from going back. 200 readers that had fallen behind left 500 MB with the process; so they leave
40. The GIL lets threads allocate one after another anyway: one arena costs no time that could be measured.
"""

import ctypes
from contextlib import suppress

#: Names from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: Free bytes at the top of the heap that are kept.
_TRIM_BYTES = 4 * 1024 * 1024
#: Bytes from which on an allocation is a mapping of its own. To set it keeps glibc from raising it.
_MMAP_BYTES = 256 * 1024


def use_one_arena() -> None:
    """Set it up. To be called before there are threads; does nothing where there is no glibc."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
