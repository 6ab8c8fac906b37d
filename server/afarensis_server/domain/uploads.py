"""Uploads: files that come in parts."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .files import FilePurpose


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is announced, and becomes one when its parts are there. Only a pending one has parts."""

    id: str
    project: str
    create_time: datetime
    status: UploadStatus
    filename: str
    purpose: FilePurpose
    media_type: str
    #: What the parts must come to together.
    size_bytes: int
    #: When it ends by itself, unless it was completed before.
    expire_time: datetime
    #: After how many seconds the file is deleted; None: not by itself.
    ttl_seconds: float | None = None
    #: The file that was made of it.
    file_id: str | None = None
    #: A digest of the request that completed it.
    completion: str | None = None


@dataclass(frozen=True, slots=True)
class UploadPart:
    """Some of the content. Its place is told when the upload is completed."""

    id: str
    project: str
    create_time: datetime
    upload_id: str
    size_bytes: int
    #: 64 lower-case hexadecimal digits.
    sha256: str
