"""Counts a server's commits from outside, by its write-ahead log: the header of a commit's last page says so."""

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24


@dataclass(frozen=True, slots=True)
class Log:
    """A write-ahead log as it is now."""

    #: Another one after the log was begun anew: then its counts have nothing to do with those before.
    salts: bytes
    commits: int
    #: Pages written.
    pages: int

    def since(self, before: "Log") -> "Log | None":
        """What came to it since then; None when it was begun anew meanwhile."""
        if self.salts != before.salts:
            return None
        return Log(self.salts, self.commits - before.commits, self.pages - before.pages)


def read(database: Path) -> Log:
    """The log beside a SQLite database in WAL mode."""
    with Path(f"{database}-wal").open("rb") as file:
        header = file.read(_HEADER_BYTES)
        page_bytes = int.from_bytes(header[8:12], "big")
        salts = header[16:24]
        commits = pages = 0
        while len(frame := file.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
            _page, size_after_commit, frame_salts = struct.unpack(">II8s8x", frame)
            # What is left of the log before this one.
            if frame_salts != salts:
                break
            pages += 1
            commits += size_after_commit > 0
            file.seek(page_bytes, 1)
    return Log(salts, commits, pages)
