"""What lies below /mnt/data of a thread, so that its next session finds it again."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from ..domain.sessions import KeptFile
from . import tables

_table = tables.thread_files


def list_of_thread(connection: Connection, project: str, thread_id: str) -> list[KeptFile]:
    """All that is known of a thread's files, by path."""
    columns = _table.c
    statement = (
        select(columns.path, columns.file_id, columns.input_id)
        .where(columns.project == project, columns.thread_id == thread_id)
        .order_by(columns.path)
    )
    return [KeptFile(*row) for row in connection.execute(statement)]


def save(connection: Connection, project: str, thread_id: str, files: Sequence[KeptFile]) -> None:
    """Note the present state of these paths; an output that was deleted is forgotten."""
    if not files:
        return
    columns = _table.c
    here = (columns.project == project, columns.thread_id == thread_id)
    connection.execute(_table.delete().where(*here, columns.path.in_([file.path for file in files])))
    kept = [file for file in files if file.file_id is not None or file.input_id is not None]
    if kept:
        connection.execute(
            _table.insert(),
            [
                {
                    "project": project,
                    "thread_id": thread_id,
                    "path": file.path,
                    "file_id": file.file_id,
                    "input_id": file.input_id,
                }
                for file in kept
            ],
        )
