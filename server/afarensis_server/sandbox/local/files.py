"""The files of a session, looked at from outside, through descriptors that no session can redirect.

Nothing is asked of the guest: what changed is what lies in the upper directory, and content is read by ``openat2`` with
every way of leaving the directory closed.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..driver import DataFile, FileChange, FileChangeKind
from .zygote import syscalls

#: Bytes of a path that is reported. Deeper and longer ones exist for the session alone.
MAX_PATH = 1024
_INSIDE = (
    syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
)
#: Bytes from which a file with less than a fraction of them on the disk is refused.
_SPARSE_FROM = 1024 * 1024
_SPARSE_FRACTION = 4
#: Characters that turn the direction of the text after them, by their bidirectional class.
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
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


def take_snapshot(upper: int, before: Snapshot = _NOTHING, *, view: int = -1, nested: Iterable[str] = ()) -> Snapshot:
    """Look through the upper directory.

    Where that is not possible, since code closed a directory to us, all is as it was ``before``. ``nested`` are inputs
    in directories: whether they are there is asked of the ``view``.
    """
    files: dict[str, Signature] = {}
    hidden: set[str] = set()
    pending = [""]
    while pending:
        directory = pending.pop()
        try:
            for name, status in _entries(upper, directory):
                path = f"{directory}/{name}" if directory else name
                if len(path.encode()) > MAX_PATH:
                    continue
                if stat.S_ISREG(status.st_mode):
                    files[path] = _signature(status)
                    continue
                if not directory:
                    hidden.add(name)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)
        except PermissionError:
            prefix = f"{directory}/" if directory else ""
            files |= {path: known for path, known in before.files.items() if path.startswith(prefix)}
            hidden |= {path for path in before.hidden if path.startswith(prefix)}
    hidden |= {path for path in nested if path not in files and _is_gone(view, path, before)}
    return Snapshot(files, frozenset(hidden))


def compare(before: Snapshot, after: Snapshot, inputs: Iterable[str]) -> list[FileChange]:
    """What changed between two snapshots, in the order of paths."""
    inputs = frozenset(inputs)
    changes = []
    for path in sorted(before.files.keys() | after.files.keys() | inputs):
        was, signature = before.has(path, inputs), after.files.get(path)
        if signature is not None and signature != before.files.get(path):
            kind = FileChangeKind.MODIFIED if was else FileChangeKind.CREATED
            changes.append(FileChange(path=path, kind=kind, size_bytes=signature[1]))
        elif was and not after.has(path, inputs):
            changes.append(FileChange(path=path, kind=FileChangeKind.DELETED, size_bytes=0))
    return changes


def list_data(view: int, upper: int, settled: Snapshot, inputs: Iterable[str]) -> list[DataFile]:
    """All regular files, in the order of paths."""
    now = take_snapshot(upper, settled)
    found = [
        DataFile(
            path, size, time, is_untouched=False, is_settled=settled.files.get(path) == (inode, size, change, time)
        )
        for path, (inode, size, change, time) in now.files.items()
    ]
    for path in inputs:
        if path not in now.files:
            try:
                found.append(stat_data(view, upper, path, settled))
            except OSError:
                continue  # deleted, or no regular file any more
    return sorted(found, key=lambda file: file.path)


def stat_data(view: int, upper: int, path: str, settled: Snapshot) -> DataFile:
    """One regular file. OSError for everything else."""
    descriptor = open_regular(view, path)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    try:
        own = syscalls.openat2(upper, path.encode(), os.O_PATH | os.O_NOFOLLOW, _INSIDE)
    except OSError:
        return DataFile(path, status.st_size, status.st_mtime_ns, is_untouched=True, is_settled=True)
    try:
        is_settled = settled.files.get(path) == _signature(os.fstat(own))
    finally:
        os.close(own)
    return DataFile(path, status.st_size, status.st_mtime_ns, is_untouched=False, is_settled=is_settled)


def open_regular(view: int, path: str) -> int:
    """Open a regular file for reading; OSError for everything else."""
    if not is_path(path):
        raise FileNotFoundError(f"no file {path!r}")
    # A pipe would make the call wait for its other end.
    descriptor = syscalls.openat2(view, path.encode(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, _INSIDE)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path!r} is not a regular file")
    return descriptor


def is_sparse(upper: int, path: str) -> bool:
    """Whether a file of the session's own is mostly holes, which take nothing of its disk, but would take ours."""
    try:
        descriptor = syscalls.openat2(upper, path.encode(), os.O_PATH | os.O_NOFOLLOW, _INSIDE)
    except OSError:
        return False  # an input as it was given, or gone
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_size > _SPARSE_FROM and status.st_blocks * _BLOCK < status.st_size // _SPARSE_FRACTION


def is_path(path: str) -> bool:
    """Whether a relative path is one that we would report."""
    return len(path.encode(errors="replace")) <= MAX_PATH and all(
        _is_name(part) and part not in {".", ".."} for part in path.split("/")
    )


def _is_gone(view: int, path: str, before: Snapshot) -> bool:
    """Whether no regular file lies under a path."""
    try:
        descriptor = syscalls.openat2(view, path.encode(), os.O_PATH | os.O_NOFOLLOW, _INSIDE)
    except PermissionError:
        return path in before.hidden
    except OSError:
        return True
    try:
        return not stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _entries(upper: int, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """Names and states in a directory below ``upper``; names that cannot be shown are left out.

    Raises PermissionError when code closed it to us.
    """
    try:
        descriptor = syscalls.openat2(upper, directory.encode() or b".", _DIRECTORY, _INSIDE)
    except PermissionError:
        raise
    except OSError:
        return  # gone or replaced in the meantime
    try:
        for name in os.listdir(descriptor):  # noqa: PTH208 - by descriptor
            if not _is_name(name):
                continue
            try:
                yield name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
    finally:
        os.close(descriptor)


def _signature(status: os.stat_result) -> Signature:
    return status.st_ino, status.st_size, status.st_ctime_ns, status.st_mtime_ns


def _is_name(name: str) -> bool:
    """Whether a name is text, and shows what it is.

    That is valid UTF-8, without control characters, line separators, backslashes (directories on other systems), and
    characters that turn the direction of text (``gpj.exe`` would show as ``exe.jpg``).
    """
    return name != "" and not any(
        character == "\\"
        or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in _TURNING
        for character in name
    )
