"""Puts input files where a session's overlay finds them: hard links, which cost nothing."""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from ..driver import InputFile
from ..shared.inputs import check_name, link_file


class InputDirectory:
    """The lower directory of one session: its input files by name, and a link to each by id."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        self.path = path
        # Overwriting its own view takes the write permission on the original, which is why others must not reach the
        # directory of the originals. Where every session is the server's own user, the owner's is enough.
        self._mode = 0o666 if shared else 0o600
        self._directory_mode = 0o777 if shared else 0o700
        self.files: dict[str, InputFile] = {}

    def create(self) -> None:
        """Make the directory."""
        self.path.mkdir(parents=True, mode=0o755)

    def add(self, files: Iterable[InputFile]) -> list[str]:
        """Put files in; the names that are new in the directory."""
        names = []
        for file in files:
            self._replace(file.name, partial(link_file, file.path, mode=self._mode))
            self.files[file.name] = file
            names.append(file.name)
            if file.file_id and file.file_id not in self.files:
                self._replace(file.file_id, partial(_point, file.name))
                names.append(file.file_id)
        return names

    def remove(self) -> None:
        """Remove the directory; the originals stay."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.with_suffix(".new").unlink(missing_ok=True)

    def _replace(self, name: str, make: Callable[[Path], None]) -> None:
        check_name(name)
        # Beside the directory: any name in it may be one of a session's, and as long as names can be.
        new = self.path.with_suffix(".new")
        for parent in [*Path(name).parents][-2::-1]:
            directory = self.path / parent
            directory.mkdir(exist_ok=True)
            # What the session makes in it lies in its overlay, not here.
            directory.chmod(self._directory_mode)
        new.unlink(missing_ok=True)
        make(new)
        new.replace(self.path / name)


def _point(target: str, place: Path) -> None:
    place.symlink_to(target)
