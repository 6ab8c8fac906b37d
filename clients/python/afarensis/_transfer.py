"""Files by path: upload, and download that resumes."""

import hashlib
import secrets
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from afarensis import v1
from afarensis._retry import Retries
from afarensis.errors import Error

#: Bytes of one message of an upload.
CHUNK_BYTES = 256 * 1024

#: Called with the bytes transferred so far and the size, as a transfer goes on. A retried upload begins at 0 again.
Progress = Callable[[int, int], None]


def _ignore(_done: int, _size: int) -> None: ...


def upload(
    stub: v1.FileServiceStub,
    path: Path,
    metadata: v1.UploadFileMetadata,
    *,
    retries: Retries,
    progress: Progress | None,
) -> v1.File:
    """Upload with a checksum for the server to verify, and a request id so that a retry makes no second file."""
    with path.open("rb") as content:
        metadata.sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        metadata.size_bytes = content.tell()
    metadata.filename = metadata.filename or path.name
    metadata.request_id = metadata.request_id or str(uuid.uuid4())
    return retries.call(lambda: stub.UploadFile(_upload_messages(path, metadata, progress or _ignore)).file)


def _upload_messages(path: Path, metadata: v1.UploadFileMetadata, progress: Progress) -> Iterator[v1.UploadFileRequest]:
    yield v1.UploadFileRequest(metadata=metadata)
    done = 0
    with path.open("rb") as content:
        while data := content.read(CHUNK_BYTES):
            yield v1.UploadFileRequest(data=data)
            done += len(data)
            progress(done, metadata.size_bytes)


def download(
    stub: v1.FileServiceStub,
    file_id: str,
    path: Path,
    *,
    retries: Retries,
    progress: Progress | None,
) -> v1.File:
    """Download to a temporary file beside the target, verify it, and only then rename it into place."""
    file = retries.call(lambda: stub.GetFile(v1.GetFileRequest(file_id=file_id)).file)
    # The name comes from elsewhere: it must not lead out of the directory.
    target = path / Path(file.filename).name if path.is_dir() else path
    # Short, since the target's own name may be as long as names can be.
    partial = target.with_name(f".{secrets.token_hex(8)}.part")
    digest = hashlib.sha256()
    done = 0
    try:
        with partial.open("xb") as content:
            while done < file.size_bytes:
                try:
                    for data in _download_messages(stub, file_id, done):
                        content.write(data)
                        digest.update(data)
                        done += len(data)
                        (progress or _ignore)(done, file.size_bytes)
                        retries.succeeded()
                    break
                except Error as error:
                    retries.wait(error)
        if done != file.size_bytes or digest.hexdigest() != file.sha256:
            raise Error(
                grpc.StatusCode.DATA_LOSS,
                f"What was received of {file_id} does not have the size and SHA-256 of the file.",
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _download_messages(stub: v1.FileServiceStub, file_id: str, offset: int) -> Iterator[bytes]:
    call = stub.DownloadFile(v1.DownloadFileRequest(file_id=file_id, offset_bytes=offset))
    try:
        for message in call:
            if message.WhichOneof("part") == "data":
                yield message.data
    finally:
        call.cancel()
