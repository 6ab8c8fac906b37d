"""The files of a local session: its own layer, the upper directory, over its inputs."""

import os
from collections.abc import Iterable

from ..driver import DataFile
from ..observing.files import Snapshot, open_beneath, open_regular, sign, take_snapshot


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
        own = open_beneath(upper, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return DataFile(path, status.st_size, status.st_mtime_ns, is_untouched=True, is_settled=True)
    try:
        is_settled = settled.files.get(path) == sign(os.fstat(own))
    finally:
        os.close(own)
    return DataFile(path, status.st_size, status.st_mtime_ns, is_untouched=False, is_settled=is_settled)
