"""Finds the files that running code has finished writing, so that they are there before the code ends.

A file counts as finished when two looks, a second apart, find it the same. Code that goes on with one later is not told
of it again before it ends: a file that grows all the time would be stored again and again.
"""

import time
from dataclasses import replace

from .files import Signature, Snapshot

#: Seconds between two looks; longer where a look takes long, so that it takes no more than a share of the time.
_SECONDS = 1.0
_SHARE = 0.02


class Lookout:
    """What was seen of the files of one execution so far."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS
        #: Files that differ from what is told, as the last look found them.
        self._seen: dict[str, Signature] = {}
        self._told: set[str] = set()
        self._free = (-1, -1)

    def due_in(self) -> float:
        """Seconds until the next look."""
        return max(0.0, self._next - time.monotonic())

    def is_worth(self, free_blocks: int, free_inodes: int) -> bool:
        """Whether a look may find something: the disk's use changed, or something may be finished by now."""
        self._next = time.monotonic() + _SECONDS
        before, self._free = self._free, (free_blocks, free_inodes)
        return self._free != before or bool(self._seen.keys() - self._told)

    def finished(self, told: Snapshot, now: Snapshot, look_seconds: float) -> Snapshot:
        """What is told already, and with it the files that were finished by now."""
        self._next = time.monotonic() + max(_SECONDS, look_seconds / _SHARE)
        changed = {path: seen for path, seen in now.files.items() if told.files.get(path) != seen}
        ready = {
            path: seen for path, seen in changed.items() if self._seen.get(path) == seen and path not in self._told
        }
        self._seen = changed
        self._told |= ready.keys()
        return replace(told, files={**told.files, **ready}) if ready else told
