"""Files."""

from afarensis import v1 as pb

from ...domain.files import File, FilePurpose
from ...files.service import UploadHead
from ...validation import Violations
from .values import enum_numbers, enum_value, given, inverse, seconds_value, timestamp_message

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


def upload_head(request: pb.CreateFileRequest | pb.UploadFileMetadata, path: str) -> UploadHead:
    """What a request says about a file besides its content; ``path`` is that of the message, with its dot."""
    found = Violations()
    head = UploadHead(
        filename=request.filename,
        purpose=purpose_value(request.purpose, f"{path}purpose", found) or FilePurpose.ASSISTANTS,
        media_type=request.media_type,
        sha256=request.sha256,
        size_bytes=given(request, "size_bytes") if isinstance(request, pb.UploadFileMetadata) else None,
        ttl_seconds=seconds_value(request.ttl, f"{path}ttl", found) if request.HasField("ttl") else None,
        request_id=request.request_id,
    )
    found.check()
    return head
