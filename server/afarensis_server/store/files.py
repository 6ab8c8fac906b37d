"""Files as rows. Which blobs exist follows from them and from parts of uploads: equal contents have one SHA-256."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from ..domain.files import File, FilePurpose
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.files, File)


@dataclass(frozen=True, slots=True)
class DeletedFile:
    """A file whose row is gone; ``frees_blob`` when nothing else has this content."""

    file: File
    frees_blob: bool


def insert(connection: Connection, file: File) -> None:
    _rows.insert(connection, file)


def get(connection: Connection, project: str, file_id: str) -> File | None:
    return _rows.get(connection, project, file_id)


def get_many(connection: Connection, project: str, file_ids: Collection[str]) -> dict[str, File]:
    """Those of the files that exist, by id."""
    if not file_ids:
        return {}
    columns = tables.files.c
    found = _rows.all(connection, _rows.select.where(columns.project == project, columns.id.in_(file_ids)))
    return {file.id: file for file in found}


def delete(connection: Connection, project: str, file_id: str) -> DeletedFile | None:
    """None when there is no such row."""
    file = _rows.get(connection, project, file_id)
    if file is None:
        return None
    _rows.delete(connection, project, file_id)
    return DeletedFile(file, frees_blob=not is_blob_used(connection, file.sha256))


def is_blob_used(connection: Connection, sha256: str) -> bool:
    """Whether a file of any project, or a part of an upload, has this content."""
    return any(
        connection.execute(select(table.c.id).where(table.c.sha256 == sha256).limit(1)).first() is not None
        for table in (tables.files, tables.upload_parts)
    )


def list_page(
    connection: Connection, project: str, page: PageRequest, purpose: FilePurpose | None = None
) -> Page[File]:
    return _rows.list_page(connection, project, page, {"purpose": purpose})


def expired_before(connection: Connection, time: datetime, limit: int = 100) -> list[File]:
    """Files of all projects whose time is over, those that ended first before the others."""
    expire_time = tables.files.c.expire_time
    return _rows.all(connection, _rows.select.where(expire_time <= time).order_by(expire_time).limit(limit))


def next_expiry(connection: Connection, after: datetime) -> datetime | None:
    """When the next file of any project expires; None when none is to."""
    expire_time = tables.files.c.expire_time
    return connection.execute(
        select(expire_time).where(expire_time > after).order_by(expire_time).limit(1)
    ).scalar_one_or_none()
