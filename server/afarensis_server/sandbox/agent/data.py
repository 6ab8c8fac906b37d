"""The files below /mnt/data: what the session was given, what it made of that, and their content."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..observing.files import (
    Signature,
    Snapshot,
    is_path,
    is_sparse,
    open_beneath,
    open_regular,
    sign,
    sign_link,
    take_snapshot,
)

DATA_DIRECTORY = "/mnt/data"
#: Where the host puts the originals, by names of its own, read-only.
INPUT_DIRECTORY = "/mnt/inputs"
#: How often a name is wrested from code that keeps taking it.
_ATTEMPTS = 20
_COPY_SIZE = 1024 * 1024


class Data:
    """The directory of files. A session's inputs are small copies in it, or links to large originals beside it."""

    def __init__(self, directory: str = DATA_DIRECTORY, inputs: str = INPUT_DIRECTORY) -> None:
        self._directory = Path(directory)
        self._inputs = Path(inputs)
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        #: Originals by the path that links to them lead to.
        self._links: dict[str, os.stat_result] = {}
        #: Inputs as they were put there, by path.
        self._given: dict[str, Signature] = {}
        self._copied_bytes = 0
        self.snapshot = Snapshot()

    def look(self) -> Snapshot:
        """What is there now."""
        return take_snapshot(self._root, self.snapshot, links=self._links)

    def show(self, name: str, file_id: str, source: str, *, copy_bytes: int, copies_bytes: int) -> None:
        """Make an original visible: a copy of a small one, which code may write to, or a link to it.

        ``copy_bytes`` is what a file may have to be copied, ``copies_bytes`` what all copies of the session may have.
        """
        original = self._inputs / source
        status = original.stat()
        if status.st_size <= min(copy_bytes, copies_bytes - self._copied_bytes):
            try:
                self._copy(name, original, status)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            else:
                self._copied_bytes += status.st_size
                self._point(file_id, name)
                return
        self._links[str(original)] = status
        self._replace(name, lambda place: place.symlink_to(original))
        self._given[name] = sign_link((self._directory / name).lstat(), status)
        self._point(file_id, name)

    def begin(self, name: str, file_id: str, size_bytes: int) -> "Incoming":
        """Take a file that comes in pieces."""
        return Incoming(self, name, file_id, size_bytes)

    def settle(self) -> None:
        """What is there now is what is known."""
        self.snapshot = self.look()

    def files(self) -> list[list[Any]]:
        """All files by path: path, bytes, time of the last change, whether it is untouched, whether it is settled."""
        found = sorted(self.look().files.items())
        return [self._describe(path, signature) for path, signature in found]

    def stat(self, path: str) -> list[Any]:
        """One file, as ``files`` has it. OSError for everything else."""
        descriptor, signature, _ = self._open(path)
        os.close(descriptor)
        return self._describe(path, signature)

    def open(self, path: str) -> int:
        """Open a file for reading. OSError for everything else, and for one that is mostly holes."""
        try:
            descriptor, _, is_link = self._open(path)
        except BlockingIOError:
            # Under a lease, which the kernel now ends: the next execution tells of the file again.
            self.snapshot = self.snapshot.unseen(path)
            raise
        if not is_link and self._given.get(path) != sign(os.fstat(descriptor)) and is_sparse(self._root, path):
            os.close(descriptor)
            raise OSError(errno.EFBIG, "a file that is mostly holes")
        return descriptor

    def _describe(self, path: str, signature: Signature) -> list[Any]:
        _, size, _, time = signature
        untouched = self._given.get(path) == signature
        return [path, size, time, untouched, untouched or self.snapshot.files.get(path) == signature]

    def _open(self, path: str) -> tuple[int, Signature, bool]:
        """A descriptor of a file or of the original that a link stands for, its signature, whether it is a link."""
        if is_path(path) and self._links:
            with suppress(OSError):
                place = open_beneath(self._root, path, os.O_PATH | os.O_NOFOLLOW)
                try:
                    link = os.fstat(place)
                    target = os.readlink("", dir_fd=place) if stat.S_ISLNK(link.st_mode) else ""
                finally:
                    os.close(place)
                if target in self._links:
                    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
                    return descriptor, sign_link(link, self._links[target]), True
        descriptor = open_regular(self._root, path)
        return descriptor, sign(os.fstat(descriptor)), False

    def put(self, place: Path, name: str, file_id: str) -> None:
        """Give a finished file its name."""
        self._replace(name, place.rename)
        self._given[name] = sign((self._directory / name).lstat())
        self._point(file_id, name)

    def new_place(self) -> Path:
        """A path in the directory that nobody has."""
        return self._directory / f".new-{secrets.token_hex(8)}"

    def _copy(self, name: str, original: Path, status: os.stat_result) -> None:
        def write(place: Path) -> None:
            with original.open("rb") as content, place.open("xb") as copy:
                shutil.copyfileobj(content, copy, _COPY_SIZE)
            os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))

        self._replace(name, write)
        self._given[name] = sign((self._directory / name).lstat())

    def _point(self, file_id: str, name: str) -> None:
        if file_id and file_id not in self._given:
            self._replace(file_id, lambda place: place.symlink_to(name))

    def _replace(self, name: str, make: Callable[[Path], object]) -> None:
        """Have something made, and give it a name, in the place of what has that."""
        path, new = self._directory / name, self.new_place()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(new)
            for _ in range(_ATTEMPTS):
                try:
                    new.rename(path)
                    return
                except OSError as error:
                    if error.errno not in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    shutil.rmtree(path, ignore_errors=True)
        finally:
            with suppress(OSError):
                new.unlink()
        raise OSError(errno.EBUSY, f"code in the session keeps replacing /mnt/data/{name}")


class Incoming:
    """A file that comes in pieces."""

    def __init__(self, data: Data, name: str, file_id: str, size_bytes: int) -> None:
        self._data = data
        self._name = name
        self._file_id = file_id
        self._left = size_bytes
        self._place = data.new_place()
        self._file: Any = None
        #: Why it cannot be taken.
        self.error: OSError | None = None
        try:
            self._file = self._place.open("xb", buffering=0)  # closed when it is complete
        except OSError as error:
            self.error = error

    def write(self, data: bytes) -> bool:
        """Take a piece; whether that was the last. What cannot be taken is thrown away, so that the stream goes on."""
        self._left -= len(data)
        view = memoryview(data)
        try:
            while view and self.error is None:
                view = view[self._file.write(view) :]
        except OSError as error:
            self.error = error
        if self._left > 0:
            return False
        self._finish()
        return True

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()
        try:
            if self.error is None:
                self._data.put(self._place, self._name, self._file_id)
        except OSError as error:
            self.error = error
        finally:
            with suppress(OSError):
                self._place.unlink()
