"""Where the files of sessions live: one tmpfs each, and an overlay of it over the input files.

The supervisor owns them, so they outlive every interpreter, and no session's mount namespace has another's. The input
files are hard links to the host's blobs in a lower directory: reading them costs no copy and shares one page cache,
and what a session changes is copied to its tmpfs first. The upper directory holds exactly what the session changed.

Paths are relative to the working directory, the driver's, so that none of its characters needs escaping in options.
"""

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
        """
        view, upper = VOLUMES / name / "view" / file, VOLUMES / name / "base" / "upper" / file
        wanted = (LOWER / name / file).lstat()
        if _same(view, wanted):
            return
        _remove(view)
        view.touch()
        view.unlink()
        with suppress(FileNotFoundError):
            if stat.S_ISCHR(upper.lstat().st_mode):
                upper.unlink()
        if not _same(view, wanted):
            shutil.copyfile(LOWER / name / file, view, follow_symlinks=False)
            view.chmod(0o666)

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


def _same(path: Path, wanted: os.stat_result) -> bool:
    try:
        seen = path.lstat()
    except FileNotFoundError:
        return False
    return (seen.st_mode, seen.st_size, seen.st_mtime_ns) == (wanted.st_mode, wanted.st_size, wanted.st_mtime_ns)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
