"""The files of a session, looked at from outside, through descriptors that no session can redirect.

Nothing is asked of the guest: what changed is what lies in a directory, and content is read by ``openat2`` with every
way of leaving the directory closed.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..zygote import syscalls

#: Bytes of a path that is reported. Deeper and longer ones exist for the session alone.
MAX_PATH = 1024
_INSIDE = (
    syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
)
#: Bytes from which a file with less than a fraction of them on the disk is refused.
_SPARSE_FROM = 1024 * 1024
_SPARSE_FRACTION = 4
#: What no name may hold: see `_is_name`. One pattern, since code can make ten thousand names of the greatest length.
_MISLEADING = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069\\\\]")
#: Bytes of what st_blocks counts.
_BLOCK = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

#: Inode, size, time of the last change of anything, and of the content: code can set back all but the third.
Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the session's own layer held at one time."""

    #: Regular files by path.
    files: Mapping[str, Signature] = field(default_factory=dict)
    #: Paths that hide an input file: deleted, or something that is not a regular file now.
    hidden: frozenset[str] = frozenset()

    def has(self, path: str, inputs: Iterable[str]) -> bool:
        """Whether the session saw a regular file under a path."""
        return path in self.files or (path in inputs and path not in self.hidden)

    def unseen(self, path: str) -> "Snapshot":
        """The same, with a file in it that will be told again, since what is in it could not be read."""
        return replace(self, files={**self.files, path: (0, 0, 0, 0)}) if path in self.files else self


_NOTHING = Snapshot()
_NO_LINKS: Mapping[str, os.stat_result] = {}


def take_snapshot(
    upper: int,
    before: Snapshot = _NOTHING,
    *,
    view: int = -1,
    nested: Iterable[str] = (),
    links: Mapping[str, os.stat_result] = _NO_LINKS,
) -> Snapshot:
    """Look through the upper directory.

    Where that is not possible, since code closed a directory to us, all is as it was ``before``. ``nested`` are inputs
    in directories: whether they are there is asked of the ``view``. Symbolic links to exactly one of ``links`` count as
    the regular file that it is.
    """
    files: dict[str, Signature] = {}
    hidden: set[str] = set()
    pending = [""]
    while pending:
        directory = pending.pop()
        try:
            for name, kind, signature in _entries(upper, directory, links):
                path = f"{directory}/{name}" if directory else name
                if len(path.encode()) > MAX_PATH:
                    continue
                if stat.S_ISREG(kind):
                    files[path] = signature
                    continue
                if not directory:
                    hidden.add(name)
                if stat.S_ISDIR(kind):
                    pending.append(path)
        except PermissionError:
            prefix = f"{directory}/" if directory else ""
            files |= {path: known for path, known in before.files.items() if path.startswith(prefix)}
            hidden |= {path for path in before.hidden if path.startswith(prefix)}
    hidden |= {path for path in nested if path not in files and _is_gone(view, path, before)}
    return Snapshot(files, frozenset(hidden))


def compare(before: Snapshot, after: Snapshot, inputs: Iterable[str] = ()) -> list[tuple[str, str, int]]:
    """What changed between two snapshots, in the order of paths: each path, a FileChangeKind, and the size in bytes."""
    inputs = frozenset(inputs)
    changes: list[tuple[str, str, int]] = []
    if before == after:
        return changes
    for path in sorted(before.files.keys() | after.files.keys() | inputs):
        was, signature = before.has(path, inputs), after.files.get(path)
        if signature is not None and signature != before.files.get(path):
            changes.append((path, "modified" if was else "created", signature[1]))
        elif was and not after.has(path, inputs):
            changes.append((path, "deleted", 0))
    return changes


def open_regular(view: int, path: str) -> int:
    """Open a regular file for reading; OSError for everything else."""
    if not is_path(path):
        raise FileNotFoundError(f"no file {path!r}")
    # A pipe would make the call wait for its other end.
    descriptor = open_beneath(view, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path!r} is not a regular file")
    return descriptor


def is_sparse(upper: int, path: str) -> bool:
    """Whether a file of the session's own is mostly holes, which take nothing of its disk, but would take ours."""
    try:
        descriptor = open_beneath(upper, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return False  # an input as it was given, or gone
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_size > _SPARSE_FROM and status.st_blocks * _BLOCK < status.st_size // _SPARSE_FRACTION


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open what lies below a directory: without following a link, without leaving it or its file system."""
    try:
        return syscalls.openat2(directory, path.encode(), flags, _INSIDE)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    # gVisor has no such call. One step at a time is the same, since none of them follows a link.
    home = os.fstat(directory).st_dev
    opened = os.dup(directory)
    try:
        *parents, last = path.split("/")
        steps = [*((name, _DIRECTORY | os.O_PATH) for name in parents), (last, flags | os.O_NOFOLLOW)]
        for name, how in steps:
            if name in ("", "..") or (name == "." and len(steps) > 1):
                raise FileNotFoundError(errno.ENOENT, "no such path", path)
            before, opened = opened, os.open(name, how | os.O_CLOEXEC, dir_fd=opened)
            os.close(before)
            if os.fstat(opened).st_dev != home:
                raise OSError(errno.EXDEV, "another file system", path)
    except BaseException:
        os.close(opened)
        raise
    return opened


def is_path(path: str) -> bool:
    """Whether a relative path is one that we would report."""
    return len(path.encode(errors="replace")) <= MAX_PATH and all(
        _is_name(part) and part not in {".", ".."} for part in path.split("/")
    )


def _is_gone(view: int, path: str, before: Snapshot) -> bool:
    """Whether no regular file lies under a path."""
    try:
        descriptor = open_beneath(view, path, os.O_PATH | os.O_NOFOLLOW)
    except PermissionError:
        return path in before.hidden
    except OSError:
        return True
    try:
        return not stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _entries(upper: int, directory: str, links: Mapping[str, os.stat_result]) -> Iterator[tuple[str, int, Signature]]:
    """Names in a directory below ``upper``, with mode and signature; names that cannot be shown are left out.

    Raises PermissionError when code closed it to us.
    """
    try:
        descriptor = open_beneath(upper, directory or ".", _DIRECTORY)
    except PermissionError:
        raise
    except OSError:
        return  # gone or replaced in the meantime
    try:
        for name in os.listdir(descriptor):  # noqa: PTH208 - by descriptor
            if not _is_name(name):
                continue
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                original = links.get(os.readlink(name, dir_fd=descriptor)) if stat.S_ISLNK(status.st_mode) else None
            except PermissionError:
                raise
            except OSError:
                continue  # gone or replaced in the meantime
            if original is None:
                yield name, status.st_mode, sign(status)
            else:
                yield name, original.st_mode, sign_link(status, original)
    finally:
        os.close(descriptor)


def sign(status: os.stat_result) -> Signature:
    """What tells one state of a file from another."""
    return status.st_ino, status.st_size, status.st_ctime_ns, status.st_mtime_ns


def sign_link(link: os.stat_result, original: os.stat_result) -> Signature:
    """The signature of a link that stands for a file."""
    return link.st_ino, original.st_size, link.st_ctime_ns, original.st_mtime_ns


def _is_name(name: str) -> bool:
    """Whether a name is text, and shows what it is.

    That is valid UTF-8, without control characters, line separators, backslashes (directories on other systems), and
    characters that turn the direction of text (``gpj.exe`` would show as ``exe.jpg``).
    """
    return name != "" and _MISLEADING.search(name) is None
