"""Which name each input file gets in /mnt/data."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ..domain.files import File
from ..files.names import NAME_BYTES

#: Characters of a suffix that is kept; what follows the last dot of a longer one is no file type.
_SUFFIX = 32


def assign_names(files: Iterable[File], taken: Mapping[str, str]) -> dict[str, str]:
    """A unique file name by file id: the file's own, or with `` (2)`` before the suffix where that is taken.

    ``taken`` maps names in use to the id of the file that has them; a file that is there already keeps its name.
    """
    in_use = dict(taken)
    own = {file_id: name for name, file_id in in_use.items()}
    assigned: dict[str, str] = {}
    for file in files:
        if file.id in own or file.id in assigned:
            continue
        name = _free_name(file.filename, in_use)
        in_use[name] = file.id
        assigned[file.id] = name
    return assigned


def _free_name(filename: str, in_use: Mapping[str, str]) -> str:
    if filename not in in_use:
        return filename
    number = 2
    while (name := _numbered(filename, f" ({number})")) in in_use:
        number += 1
    return name


def _numbered(filename: str, number: str) -> str:
    """The name with a number before its suffix, cut where the whole would be too long."""
    path = PurePosixPath(filename)
    stem, suffix = (path.stem, path.suffix) if len(path.suffix) <= _SUFFIX else (filename, "")
    room = NAME_BYTES - len(f"{number}{suffix}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore')}{number}{suffix}"
