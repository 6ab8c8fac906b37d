"""Finding files inside other nouns' units of work."""

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import Connection

from ..domain.files import File
from ..errors import FileNotFound
from ..store import files


def is_expired(file: File, time: datetime) -> bool:
    """Whether the file's time is over. It is then gone for everybody, also before it is swept away."""
    return file.expire_time is not None and file.expire_time <= time


def find_files(connection: Connection, project: str, file_ids: Iterable[str], time: datetime) -> dict[str, File]:
    """Those of the files that the project has, by id, in the order of the ids."""
    wanted = dict.fromkeys(file_ids)
    stored = files.get_many(connection, project, wanted.keys())
    return {
        file_id: stored[file_id] for file_id in wanted if file_id in stored and not is_expired(stored[file_id], time)
    }


def require_files(
    connection: Connection, project: str, file_ids: Iterable[str], time: datetime, *, known: Collection[str] = ()
) -> dict[str, File]:
    """The files by id, but for those that were ``known`` before and may be gone since.

    Raises FileNotFound for the first that does not exist, or is another project's.
    """
    wanted = [file_id for file_id in file_ids if file_id not in known]
    found = find_files(connection, project, wanted, time)
    for file_id in wanted:
        if file_id not in found:
            raise FileNotFound(id=file_id)
    return found
