"""What lies below /mnt/data of a thread, so that its next session finds it again."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from ..domain.sessions import KeptFile
from . import tables

_table = tables.thread_files
_of_thread = (
    select(_table.c.path, _table.c.file_id, _table.c.input_id)
    .where(_table.c.project == bindparam("row_project"), _table.c.thread_id == bindparam("thread"))
    .order_by(_table.c.path)
)


def list_of_thread(connection: Connection, project: str, thread_id: str) -> list[KeptFile]:
    """All that is known of a thread's files, by path."""
    return [KeptFile(*row) for row in connection.execute(_of_thread, {"row_project": project, "thread": thread_id})]


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
