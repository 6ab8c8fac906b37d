"""Finding files inside other nouns' units of work."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from ..domain.files import File
from ..errors import FileNotFound
from ..store import files


def is_expired(file: File, time: datetime) -> bool:
    """Whether the file's time is over. It is then gone for everybody, also before it is swept away."""
    return file.expire_time is not None and file.expire_time <= time


def require_files(connection: Connection, project: str, file_ids: Collection[str], time: datetime) -> dict[str, File]:
    """The files by id. Raises FileNotFound for the first that does not exist, or is another project's."""
    if not file_ids:
        return {}
    found = files.get_many(connection, project, set(file_ids))
    for file_id in file_ids:
        if file_id not in found or is_expired(found[file_id], time):
            raise FileNotFound(id=file_id)
    return found
