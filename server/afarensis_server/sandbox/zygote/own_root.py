"""A root of its own for each session, over the one of its zygote.

It looks the same, but every file and directory in it is an inode of the session's own. So a lock on a file of the
system, which code can take by reading alone, is seen by nobody else. The directories are overlays without an upper
layer, so that what is read is in memory once for all.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import syscalls
from .jail import DEVICES, SESSION_PLACES

#: Where the new root is built: a directory that is there, and seen by nobody any more.
_PLACE = "/mnt"
#: An empty directory. An overlay without an upper layer takes two others.
_EMPTY = "/dev/shm"  # noqa: S108 - nobody's yet
_READ_ONLY = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
#: What a kernel says that has no overlays for users, or has reached how many may lie upon another.
_NO_OVERLAY = {errno.EPERM, errno.EINVAL, errno.ENODEV}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a root consists of, parents before children."""

    #: Directories that are there to hold others, or to be mounted over.
    directories: Sequence[str]
    #: Links, with where they lead.
    links: Sequence[tuple[str, str]]
    #: Directories with what the system has in them.
    system: Sequence[str]

    @classmethod
    def read(cls) -> "Layout":
        """Look at the present root. Whatever lies on another file system than the root is the system's, and /etc."""
        root = Path("/").stat().st_dev
        directories: list[str] = []
        links: list[tuple[str, str]] = []
        system: list[str] = []
        pending = ["/"]
        while pending:
            directory = pending.pop()
            for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
                if entry.is_symlink():
                    links.append((entry.path, str(Path(entry.path).readlink())))
                elif not entry.is_dir() or entry.path in SESSION_PLACES:
                    continue  # devices; and what is made elsewhere
                elif entry.path == "/etc" or entry.stat().st_dev != root:
                    system.append(entry.path)
                else:
                    directories.append(entry.path)
                    pending.append(entry.path)
        return cls(directories, links, system)

    def enter(self) -> None:
        """Build such a root, and make it this process's. Takes a mount and a pid namespace of its own."""
        syscalls.mount("tmpfs", _PLACE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=1m,mode=755")
        # Without pathlib: each session does this, and what code it runs and writes to is copied for it.
        for path in (*self.directories, *self.system, *SESSION_PLACES):
            os.mkdir(_PLACE + path)  # noqa: PTH102
        for path, target in self.links:
            os.symlink(target, _PLACE + path)  # noqa: PTH211
        for path in self.system:
            _show(path)
        for name in DEVICES:
            os.mknod(f"{_PLACE}/dev/{name}")
            syscalls.mount(f"/dev/{name}", f"{_PLACE}/dev/{name}", None, syscalls.MS_BIND)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC | syscalls.MS_RDONLY
        syscalls.mount("proc", f"{_PLACE}/proc", "proc", flags, "hidepid=2,subset=pid")
        os.chdir(_PLACE)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".")
        os.chdir("/")
        # The root's own mount alone: the places below it have their own flags.
        syscalls.mount("", "/", None, syscalls.MS_REMOUNT | syscalls.MS_BIND | _READ_ONLY)


def _show(path: str) -> None:
    """Show a directory of the system in the new root."""
    target = _PLACE + path
    try:
        syscalls.mount("overlay", target, "overlay", _READ_ONLY, f"lowerdir={_escaped(path)}:{_EMPTY},userxattr")
    except OSError as error:
        if error.errno not in _NO_OVERLAY:
            raise
        # As it is in the zygote's, with the inodes of all.
        syscalls.mount(path, target, None, syscalls.MS_BIND | syscalls.MS_REC)


def _escaped(path: str) -> str:
    """A path as the options of a mount take it."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
