"""Uploads and their parts."""

from ...domain.files import UPLOAD_PURPOSES, File, FilePurpose
from ...domain.uploads import Upload, UploadPart
from ...files.service import UploadHead
from ..fields import Fields
from .files import file_json
from .values import Json, seconds


def upload_json(upload: Upload, file: File | None = None) -> Json:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": seconds(upload.create_time),
        "expires_at": seconds(upload.expire_time),
        "filename": upload.filename,
        "purpose": upload.purpose.value,
        "status": upload.status.value,
        "file": None if file is None else file_json(file),
    }


def part_json(part: UploadPart) -> Json:
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": seconds(part.create_time),
        "upload_id": part.upload_id,
    }


def upload_head(fields: Fields, request_id: str) -> UploadHead:
    """What an upload announces. Raises Refused."""
    filename, size_bytes = fields.string("filename"), fields.integer("bytes")
    purpose, media_type = fields.choice("purpose", UPLOAD_PURPOSES), fields.string("mime_type") or ""
    for name in ("filename", "bytes", "purpose"):
        if fields.raw(name) is None:
            fields.required(name)
    ttl: int | None = None
    if (after := fields.nested("expires_after")) is not None:
        after.choice("anchor", ("created_at",))
        ttl = after.integer("seconds")
        if after.raw("seconds") is None:
            after.required("seconds")
        after.finish()
    fields.finish()
    fields.found.check()
    return UploadHead(
        filename or "",
        FilePurpose(str(purpose)),
        # What programs say of any file is no news.
        "" if media_type == "application/octet-stream" else media_type,
        size_bytes=size_bytes,
        ttl_seconds=ttl,
        request_id=request_id,
    )
