"""Files."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class FilePurpose(StrEnum):
    ASSISTANTS = "assistants"
    VISION = "vision"
    USER_DATA = "user_data"
    #: Written by code in a session; never chosen by a client.
    ASSISTANTS_OUTPUT = "assistants_output"


#: What clients upload files for.
UPLOAD_PURPOSES = (FilePurpose.ASSISTANTS, FilePurpose.VISION, FilePurpose.USER_DATA)


@dataclass(frozen=True, slots=True)
class File:
    """A named, verified, immutable file. Files of equal content share one blob, named by its SHA-256."""

    id: str
    project: str
    create_time: datetime
    filename: str
    purpose: FilePurpose
    size_bytes: int
    #: 64 lower-case hexadecimal digits.
    sha256: str
    media_type: str
    expire_time: datetime | None = None
