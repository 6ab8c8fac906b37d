"""Files."""

from ...domain.files import File
from .values import Json, seconds


def file_json(file: File) -> Json:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": seconds(file.create_time),
        "expires_at": seconds(file.expire_time),
        "filename": file.filename,
        "purpose": file.purpose.value,
        "status": "processed",
        "status_details": None,
    }
