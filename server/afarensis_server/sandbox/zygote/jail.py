"""The file system of a zygote and of all its sessions: what Python needs, read-only, and nothing else of the host.

Built in a mount namespace of its own by whoever may see the host's files; what runs later cannot reach them, since they
are not mounted anywhere. The places that belong to one session are empty here and are mounted over in the session.
"""

import os
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from . import syscalls
from .privileges import SESSION_USER

#: Where our own packages lie inside, ``afarensis_guest`` and ``afarensis_zygote``.
CODE_DIRECTORY = "/opt/afarensis"
DATA_DIRECTORY = "/mnt/data"
#: Where a session may write.
WRITABLE = (DATA_DIRECTORY, "/tmp", "/dev/shm")  # noqa: S108 - the session's own
#: Where a virtual environment lies inside. It can be anywhere on the host, also where sessions have their own files.
_ENVIRONMENT = Path(CODE_DIRECTORY, "python")

SESSION_PLACES = ("/proc", *WRITABLE)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
#: The only host files of /etc: how libraries and fonts are found, and nothing about the host.
_ETC_FROM_HOST = ("alternatives", "fonts", "ld.so.cache", "mime.types")
_ETC = {
    "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:{SESSION_USER}:{SESSION_USER}:sandbox:/tmp:/bin/sh\n",
    "group": f"root:x:0:\nsandbox:x:{SESSION_USER}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}
_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


def enter(mount_point: str, guest_code: str, owner: int) -> None:
    """Build the root at ``mount_point`` and make it this process's root. Needs its own mount and pid namespace.

    ``owner`` is the user, outside, who may write to the zygote's own /tmp.
    """
    syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _mount_tmpfs(mount_point, "size=16m,mode=755", noexec=False)
    _Builder(Path(mount_point)).build(guest_code, owner)
    os.chdir(mount_point)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".")
    os.chdir("/")
    # The root's own mount alone: the places below it have their own flags.
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("", "/", None, flags)


def _mount_tmpfs(target: str, options: str, *, noexec: bool = True) -> None:
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | (syscalls.MS_NOEXEC if noexec else 0)
    syscalls.mount("tmpfs", target, "tmpfs", flags, options)


class _Builder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def build(self, guest_code: str, owner: int) -> None:
        for name in _SYSTEM:
            self._add_system(Path(name))
        executable = Path(sys.executable)
        if _is_environment(executable.parent.parent):
            self._bind(executable.parent.parent, _ENVIRONMENT)
        directories = _python_directories()
        for path in directories:
            self._bind(path, path)
        for path in _links_to_python(directories):
            self._inside(path).parent.mkdir(parents=True, exist_ok=True)
            self._inside(path).symlink_to(path.readlink())
        self._bind(Path(guest_code), Path(CODE_DIRECTORY, "afarensis_guest"))
        self._bind(Path(__file__).parent, Path(CODE_DIRECTORY, "afarensis_zygote"))
        self._add_etc()
        self._add_devices()
        for name in SESSION_PLACES:
            self._inside(Path(name)).mkdir(parents=True, exist_ok=True)
        proc = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("proc", str(self._inside(Path("/proc"))), "proc", proc)
        # What the imports leave behind, like matplotlib's list of fonts. Sessions mount their own over it.
        _mount_tmpfs(str(self._inside(Path("/tmp"))), f"size=64m,mode=700,uid={owner},gid={owner}")  # noqa: S108

    def _inside(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def _bind(self, source: Path, target: Path, attributes: int = _READ_ONLY) -> None:
        inside = self._inside(target)
        if source.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        syscalls.mount(str(source), str(inside), None, syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.mount_setattr(str(inside), attributes)

    def _add_system(self, path: Path) -> None:
        if path.is_symlink():
            self._inside(path).symlink_to(path.readlink())
        elif path.is_dir():
            self._bind(path, path)

    def _add_etc(self) -> None:
        etc = self._inside(Path("/etc"))
        etc.mkdir()
        for name, text in _ETC.items():
            (etc / name).write_text(text)
        for name in _ETC_FROM_HOST:
            source = Path("/etc", name)
            # Copies, so that /etc is one directory, which each session sees by inodes of its own.
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, etc / name, symlinks=True, ignore=_unreadable)
            elif source.is_file() and not source.is_symlink():
                shutil.copyfile(source, etc / name)

    def _add_devices(self) -> None:
        dev = self._inside(Path("/dev"))
        dev.mkdir()
        for name in DEVICES:
            # Read-only is the node, not the device behind it.
            self._bind(Path("/dev", name), Path("/dev", name), syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID)
        for name, target in _LINKS.items():
            (dev / name).symlink_to(target)


def _unreadable(directory: str, names: list[str]) -> list[str]:
    """What of a directory is not copied: all that is neither a link, a directory nor a file that everybody may read."""
    modes = {name: Path(directory, name).lstat().st_mode for name in names}
    kinds = stat.S_ISLNK, stat.S_ISDIR, stat.S_ISREG
    return [
        name for name, mode in modes.items() if not (mode & stat.S_IROTH and any(is_kind(mode) for is_kind in kinds))
    ]


def executable_inside() -> str:
    """The path of this Python in the jail."""
    executable = Path(sys.executable)
    return str(_ENVIRONMENT / "bin" / executable.name if _is_environment(executable.parent.parent) else executable)


def _is_environment(path: Path) -> bool:
    return (path / "pyvenv.cfg").exists()


def check_places(private: Sequence[Path]) -> None:
    """Refuse to show sessions a directory that is one of these, or has one of them in it. Call it with host paths."""
    executable = Path(sys.executable)
    environment = executable.parent.parent
    shown = [*_python_directories(), *([environment] if _is_environment(environment) else [])]
    shown += [Path(name).resolve() for name in _SYSTEM if Path(name).is_dir()]
    for path in shown:
        for place in private:
            if place.resolve().is_relative_to(path.resolve()):
                raise RuntimeError(f"sessions see the whole of {path}, and {place} in it is not for them")


def _is_session_place(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in SESSION_PLACES)


def _python_directories() -> list[Path]:
    """The directories of this Python outside the system's own, parents before children."""
    found = {path for path in (Path(sys.base_prefix), Path(sys.base_prefix).resolve()) if not _is_environment(path)}
    for path in found:
        if _is_session_place(path) or (path != Path("/usr") and len(path.parts) <= 2):
            raise RuntimeError(f"the guest's Python lies in {path}, which cannot be shown to sessions as a whole")
    chosen: list[Path] = []
    for path in sorted(found):
        if not any(path.is_relative_to(parent) for parent in (Path("/usr"), *chosen)):
            chosen.append(path)
    return chosen


def _links_to_python(shown: Sequence[Path]) -> list[Path]:
    """The links on the way from a virtual environment's ``python`` to the real one, outside of what is shown anyway.

    They are made anew: where they lie may be somebody's home.
    """
    links = []
    link = Path(sys.executable)
    while link.is_symlink():
        if not any(link.is_relative_to(path) for path in (Path("/usr"), Path(sys.executable).parent.parent, *shown)):
            if _is_session_place(link):
                raise RuntimeError(f"the guest's Python is reached by {link}, where sessions have their own files")
            links.append(link)
        link = Path(os.path.normpath(link.parent / link.readlink()))
    return links
