"""Uploads and their parts as rows. A part's content is a blob, as a file's is."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from ..domain.uploads import Upload, UploadPart, UploadStatus
from . import tables
from .rows import Rows

_rows = Rows(tables.uploads, Upload)
_parts = Rows(tables.upload_parts, UploadPart)

_OVER = [status for status in UploadStatus if status is not UploadStatus.PENDING]


def insert(connection: Connection, upload: Upload) -> None:
    _rows.insert(connection, upload)


def get(connection: Connection, project: str, upload_id: str) -> Upload | None:
    return _rows.get(connection, project, upload_id)


def end(connection: Connection, upload: Upload) -> set[str]:
    """Write an upload that is over, without its parts; the contents that they had."""
    _rows.update(connection, upload)
    columns = tables.upload_parts.c
    contents = set(connection.scalars(select(columns.sha256).where(columns.upload_id == upload.id)))
    connection.execute(tables.upload_parts.delete().where(columns.upload_id == upload.id))
    return contents


def expired_before(connection: Connection, time: datetime, limit: int = 100) -> list[Upload]:
    """Pending uploads of all projects whose time is over, those that ended first before the others."""
    columns = tables.uploads.c
    wanted = (columns.status == UploadStatus.PENDING, columns.expire_time <= time)
    return _rows.all(connection, _rows.select.where(*wanted).order_by(columns.expire_time).limit(limit))


def count_pending(connection: Connection, project: str, time: datetime) -> int:
    """How many uploads of a project are pending and not over by then."""
    columns = tables.uploads.c
    wanted = (columns.status == UploadStatus.PENDING, columns.expire_time > time, columns.project == project)
    return connection.execute(select(func.count()).where(*wanted)).scalar_one()


def next_expiry(connection: Connection, after: datetime) -> datetime | None:
    """When the next pending upload of any project expires; None when none is to."""
    columns = tables.uploads.c
    wanted = (columns.status == UploadStatus.PENDING, columns.expire_time > after)
    statement = select(columns.expire_time).where(*wanted).order_by(columns.expire_time).limit(1)
    return connection.execute(statement).scalar_one_or_none()


def forget(connection: Connection, before: datetime) -> int:
    """Delete uploads of all projects that are over and would have expired before; tells how many."""
    columns = tables.uploads.c
    wanted = (columns.status.in_(_OVER), columns.expire_time < before)
    return connection.execute(tables.uploads.delete().where(*wanted)).rowcount


def insert_part(connection: Connection, part: UploadPart) -> None:
    _parts.insert(connection, part)


def get_part(connection: Connection, project: str, part_id: str) -> UploadPart | None:
    return _parts.get(connection, project, part_id)


def get_parts(connection: Connection, upload_id: str) -> dict[str, UploadPart]:
    """All parts of an upload, by id."""
    wanted = _parts.select.where(tables.upload_parts.c.upload_id == upload_id)
    return {part.id: part for part in _parts.all(connection, wanted)}


def sum_parts(connection: Connection, upload_id: str) -> tuple[int, int]:
    """How many parts an upload has, and the bytes of all of them."""
    columns = tables.upload_parts.c
    statement = select(func.count(), func.coalesce(func.sum(columns.size_bytes), 0))
    count, size = connection.execute(statement.where(columns.upload_id == upload_id)).one()
    return int(count), int(size)
