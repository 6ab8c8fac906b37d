"""Input files as the host holds them: names that a session may see, and hard links, which cost nothing."""

import os
import shutil
import stat
from pathlib import Path

#: Bytes of a name, without its directories.
_NAME_BYTES = 255


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be the name of a file below /mnt/data."""
    if "\0" in name or any(part in {"", ".", ".."} or len(part.encode()) > _NAME_BYTES for part in name.split("/")):
        raise ValueError(f"{name!r} cannot be the name of a file")


def link_file(source: Path, place: Path, *, mode: int) -> None:
    """Make a file appear at another place too, with at least these permissions; copied where it cannot be linked."""
    try:
        os.link(source, place)
        found = stat.S_IMODE(place.stat().st_mode)
        if found & mode != mode:
            place.chmod(found | mode)
    except OSError:
        # Another file system, or somebody else's file.
        place.unlink(missing_ok=True)
        shutil.copyfile(source, place)
        place.chmod(mode)
