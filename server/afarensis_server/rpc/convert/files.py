"""Files."""

from afarensis import v1 as pb

from ...domain.files import File, FilePurpose
from ...validation import Violations
from .values import enum_numbers, enum_value, inverse, timestamp_message

_PURPOSES = enum_numbers(pb.FilePurpose, "FILE_PURPOSE_", FilePurpose)


def file_message(file: File) -> pb.File:
    return pb.File(
        id=file.id,
        create_time=timestamp_message(file.create_time),
        filename=file.filename,
        purpose=_PURPOSES[file.purpose],
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        media_type=file.media_type,
        expire_time=timestamp_message(file.expire_time),
    )


def purpose_value(number: int, path: str, found: Violations) -> FilePurpose | None:
    """None stands for unspecified."""
    return enum_value(number, inverse(_PURPOSES), path, found)
