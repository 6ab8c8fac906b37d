"""Keeps /mnt/data of a thread beyond its sessions: what lies where is noted after each call, and laid out again.

The files themselves are in the file store already, since every new or changed file becomes one; only which of them
lies at which path is added here. Empty directories, links and permissions are not kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ..clock import now
from ..domain.executions import FileChangeKind, FileItem
from ..domain.files import File
from ..domain.sessions import KeptFile
from ..files.lookup import find_files
from ..sandbox.driver import DATA_DIRECTORY
from ..store import thread_files
from .names import assign_names


@dataclass(frozen=True, slots=True)
class Layout:
    """What a new session of a thread finds below /mnt/data."""

    #: Which file lies at which path, relative to /mnt/data.
    placed: dict[str, File]
    #: The inputs by the path each was given, also those that code has changed or deleted since.
    inputs: dict[str, str]
    #: What is to be noted of it.
    kept: tuple[KeptFile, ...]
    #: The paths at which nothing lies any more since its file was deleted from the file store.
    deleted: tuple[str, ...] = ()


def lay_out(connection: Connection, project: str, thread_id: str | None, inputs: Sequence[File]) -> Layout:
    """The files of a thread's earlier sessions, and these inputs beside them; without a thread, the inputs alone.

    An input keeps the path that it had. What code made of it lies there, or nothing if code deleted it; one that is
    not among the inputs any more is gone unless code has changed it.
    """
    wanted = {file.id for file in inputs}
    noted = thread_files.list_of_thread(connection, project, thread_id) if thread_id else []
    stored = find_files(connection, project, [file.file_id for file in noted if file.file_id is not None], now())
    kept = [file for file in noted if file.input_id in wanted or file.file_id != file.input_id]
    # An output that its owner deleted from the file store is gone from the session, too.
    placed = {file.path: stored[file.file_id] for file in kept if file.file_id in stored and file.file_id is not None}
    known = {file.input_id for file in kept}
    new = [file for file in inputs if file.id not in known]
    # The first part of each path: a file may not be called like a directory either.
    taken = {file.path.split("/", 1)[0]: file.input_id or file.file_id or "" for file in kept}
    names = assign_names(new, taken)
    placed |= {names[file.id]: file for file in new}
    added = [KeptFile(names[file.id], file.id, file.id) for file in new]
    given = {file.path: file.input_id for file in (*kept, *added) if file.input_id is not None}
    deleted = [file.path for file in noted if file.file_id is not None and file.file_id not in stored]
    return Layout(placed, given, (*kept, *added), tuple(path for path in deleted if path not in placed))


def after(changes: Iterable[FileItem], inputs: dict[str, str]) -> list[KeptFile]:
    """What to note after an execution that left these changes.

    A file that could not be kept stays noted as it was before: an older content rather than none.
    """
    noted = {}
    for change in changes:
        if change.file is None and change.change is not FileChangeKind.DELETED:
            continue
        path = change.path.removeprefix(f"{DATA_DIRECTORY}/")
        file_id = None if change.file is None else change.file.id
        noted[path] = KeptFile(path, file_id, inputs.get(path))
    return list(noted.values())
