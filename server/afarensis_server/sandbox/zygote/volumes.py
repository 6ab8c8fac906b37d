"""Where the files of sessions live: one tmpfs each, and an overlay of it over the input files.

The supervisor owns them, so they outlive every interpreter, and no session's mount namespace has another's. The input
files are hard links to the host's blobs in a lower directory: reading them costs no copy and shares one page cache,
and what a session changes is copied to its tmpfs first. The upper directory holds exactly what the session changed.

Paths are relative to the working directory, the driver's, so that none of its characters needs escaping in options.
"""

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from . import syscalls

#: Below the driver's work directory: for mounts of the supervisor, and for the lower directories, which the host fills.
VOLUMES = Path("volumes")
LOWER = Path("lower")
#: Inodes of a volume's own: its root, the upper and the work directory, and what overlayfs keeps in it.
_OWN_INODES = 5
_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV
#: A file that was not there, and is no link of somebody else's.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: How often a name is wrested from code that keeps taking it.
_ATTEMPTS = 20
#: What a step says when the session was faster.
_CONTESTED = {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP}
#: How deep a directory may be that an input takes the place of.
_MAX_DEPTH = 64


class Volumes:
    """The volumes of this supervisor's sessions, by name."""

    def __init__(self, *, privileged: bool) -> None:
        # Who is root only in a user namespace of his own may not write the trusted attributes.
        self._options = "" if privileged else ",userxattr"
        VOLUMES.mkdir(exist_ok=True)
        syscalls.mount("tmpfs", str(VOLUMES), "tmpfs", _FLAGS, "size=16m,mode=700")

    def create(self, name: str, *, size_bytes: int, inodes: int, owner: int) -> list[int]:
        """Make a volume for a user; descriptors of its mount, of its changes and of all its files."""
        home = VOLUMES / name
        base, view = home / "base", home / "view"
        base.mkdir(parents=True)
        view.mkdir()
        try:
            options = f"size={size_bytes},nr_inodes={inodes + _OWN_INODES},mode=700"
            syscalls.mount("tmpfs", str(base), "tmpfs", _FLAGS, options)
            upper, work = base / "upper", base / "work"
            work.mkdir(mode=0o700)
            upper.mkdir(mode=0o755)
            os.chown(upper, owner, owner)
            layers = f"lowerdir={LOWER / name},upperdir={upper},workdir={work}{self._options}"
            syscalls.mount("overlay", str(view), "overlay", _FLAGS, layers)
            return [self.clone(name), _open_directory(upper), _open_directory(view)]
        except BaseException:
            self.remove(name)
            raise

    def clone(self, name: str) -> int:
        """Make one more mount of a volume, for one more interpreter."""
        return syscalls.open_tree(str(VOLUMES / name / "view"))

    def add(self, name: str, file: str) -> None:
        """Make a file visible that the host has linked into the lower directory since the volume was mounted.

        Overlayfs promises nothing here, so the result is checked. It remembers names that were absent, and a name that
        the session changed or deleted is hidden by what it left. Making and deleting the name drops what is remembered,
        and taking away the mark of the deletion uncovers the file. If it is still not seen, it is copied.

        The session may be running, and put links, pipes and directories in our way all the while. So nothing here
        follows a name: every step goes by the descriptor of a directory, and makes a file that was not there. OSError
        when the session does not let go of the name.
        """
        source = LOWER / name / file
        view = _open_directory(VOLUMES / name / "view")
        upper = _open_directory(VOLUMES / name / "base" / "upper")
        try:
            for _ in range(_ATTEMPTS):
                try:
                    if _uncover(view, upper, file, source.lstat()) or _copy(view, file, source):
                        return
                except OSError as error:
                    if error.errno not in _CONTESTED:
                        raise
            raise OSError(errno.EBUSY, f"code in the session keeps replacing /mnt/data/{file}")
        finally:
            os.close(view)
            os.close(upper)

    def remove(self, name: str) -> None:
        """Unmount a volume; its files are gone when the last descriptor of it is closed."""
        for path in (VOLUMES / name / "view", VOLUMES / name / "base"):
            if os.path.ismount(path):
                syscalls.umount(str(path))
            with suppress(FileNotFoundError):
                path.rmdir()
        with suppress(FileNotFoundError):
            (VOLUMES / name).rmdir()


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _uncover(view: int, upper: int, name: str, wanted: os.stat_result) -> bool:
    """Drop whatever hides a file of the lower directory; tells whether it is seen then."""
    if _is_seen(view, name, wanted):
        return True
    _remove(view, name)
    os.close(os.open(name, _NEW_FILE, dir_fd=view))
    os.unlink(name, dir_fd=view)
    with suppress(FileNotFoundError):
        if stat.S_ISCHR(os.stat(name, dir_fd=upper, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=upper)
    return _is_seen(view, name, wanted)


def _copy(view: int, name: str, source: Path) -> bool:
    """Copy a file of the lower directory, or the link that it is."""
    if source.is_symlink():
        os.symlink(source.readlink(), name, dir_fd=view)
        return True
    with source.open("rb") as original, open(os.open(name, _NEW_FILE, dir_fd=view), "wb") as copy:  # noqa: PTH123 - by descriptor
        shutil.copyfileobj(original, copy)
        os.fchmod(copy.fileno(), 0o666)
    return True


def _is_seen(view: int, name: str, wanted: os.stat_result) -> bool:
    try:
        seen = os.stat(name, dir_fd=view, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (seen.st_mode, seen.st_size, seen.st_mtime_ns) == (wanted.st_mode, wanted.st_size, wanted.st_mtime_ns)


def _remove(directory: int, name: str, depth: int = 0) -> None:
    """Remove a name with all below it, without following anything."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        if depth == _MAX_DEPTH:
            raise
        # Neither a link nor a pipe is opened by this.
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            for entry in os.listdir(inner):  # noqa: PTH208 - by descriptor
                _remove(inner, entry, depth + 1)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)
