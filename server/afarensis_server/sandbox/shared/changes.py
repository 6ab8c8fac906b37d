"""Changes of files in the words of the protocol."""

from collections.abc import Iterable

from ..driver import FileChange, FileChangeKind
from ..observing import files
from ..observing.files import Snapshot


def compare(before: Snapshot, after: Snapshot, inputs: Iterable[str]) -> list[FileChange]:
    """What changed between two snapshots, in the order of paths."""
    return [FileChange(path, FileChangeKind(kind), size) for path, kind, size in files.compare(before, after, inputs)]
