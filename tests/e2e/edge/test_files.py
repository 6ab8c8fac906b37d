import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from afarensis import v1 as pb
from tests.support.rpc import Refusal, refused

MIB = 1024 * 1024


def upload(
    files: pb.FileServiceStub, content: bytes, metadata: pb.UploadFileMetadata, chunk: int = 256 * 1024
) -> pb.File:
    def messages() -> Iterator[pb.UploadFileRequest]:
        yield pb.UploadFileRequest(metadata=metadata)
        for start in range(0, len(content), chunk):
            yield pb.UploadFileRequest(data=content[start : start + chunk])

    return files.UploadFile(messages()).file


def download(files: pb.FileServiceStub, file_id: str, offset: int = 0, limit: int = 0) -> tuple[pb.File, list[bytes]]:
    request = pb.DownloadFileRequest(file_id=file_id, offset_bytes=offset, limit_bytes=limit)
    first, *rest = files.DownloadFile(request)
    assert first.WhichOneof("part") == "file"
    return first.file, [message.data for message in rest]


def refused_upload(files: pb.FileServiceStub, *messages: pb.UploadFileRequest) -> Refusal:
    return refused(lambda: files.UploadFile(iter(messages)))


def test_small_file_is_created_in_one_call(files: pb.FileServiceStub) -> None:
    content = b"a,b\n1,2\n"
    digest = hashlib.sha256(content).hexdigest()
    request = pb.CreateFileRequest(filename="データ.csv", content=content, sha256=digest)
    file = files.CreateFile(request).file
    assert file.id.startswith("file-")
    assert (file.filename, file.size_bytes, file.sha256) == ("データ.csv", len(content), digest)
    assert (file.media_type, file.purpose) == ("text/csv", pb.FILE_PURPOSE_ASSISTANTS)
    assert not file.HasField("expire_time")
    assert files.GetFile(pb.GetFileRequest(file_id=file.id)).file == file
    answer = files.ReadFile(pb.ReadFileRequest(file_id=file.id))
    assert (answer.file, answer.data) == (file, content)


def test_empty_file_is_a_file(files: pb.FileServiceStub) -> None:
    file = files.CreateFile(pb.CreateFileRequest(filename="empty")).file
    assert (file.size_bytes, file.media_type) == (0, "application/octet-stream")
    assert download(files, file.id) == (file, [])


def test_large_file_goes_up_and_comes_down_in_pieces(files: pb.FileServiceStub) -> None:
    content = os.urandom(5 * MIB + 17)
    metadata = pb.UploadFileMetadata(
        filename="big.bin", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    file = upload(files, content, metadata)
    found, chunks = download(files, file.id)
    assert found == file
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= MIB for chunk in chunks)


@pytest.mark.parametrize(("offset", "limit"), [(0, 1), (3, 0), (3, 4), (10, 0), (9, 100)])
def test_range_of_a_file_is_what_was_asked_for(files: pb.FileServiceStub, offset: int, limit: int) -> None:
    content = b"0123456789"
    file = files.CreateFile(pb.CreateFileRequest(filename="x", content=content)).file
    expected = content[offset : offset + limit if limit else None]
    assert b"".join(download(files, file.id, offset, limit)[1]) == expected
    request = pb.ReadFileRequest(file_id=file.id, offset_bytes=offset, limit_bytes=limit)
    assert files.ReadFile(request).data == expected


def test_offset_past_the_end_is_refused(files: pb.FileServiceStub, file: pb.File) -> None:
    for call in (
        lambda: files.DownloadFile(pb.DownloadFileRequest(file_id=file.id, offset_bytes=9)),
        lambda: files.ReadFile(pb.ReadFileRequest(file_id=file.id, offset_bytes=9)),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_PAST_END")
        assert refusal.metadata["size_bytes"] == "8"


@pytest.mark.parametrize("field", ["offset_bytes", "limit_bytes"])
def test_negative_range_is_refused(files: pb.FileServiceStub, file: pb.File, field: str) -> None:
    request = pb.DownloadFileRequest(file_id=file.id)
    setattr(request, field, -1)
    refusal = refused(lambda: files.DownloadFile(request))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        (pb.UploadFileMetadata(filename="x", sha256="0" * 64), "sha256"),
        (pb.UploadFileMetadata(filename="x", size_bytes=2), "size_bytes"),
        (pb.UploadFileMetadata(filename="x", size_bytes=4), "size_bytes"),
    ],
)
def test_content_other_than_announced_is_refused(
    files: pb.FileServiceStub, metadata: pb.UploadFileMetadata, what: str
) -> None:
    refusal = refused(lambda: upload(files, b"abc", metadata))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTENT_MISMATCH")
    assert refusal.metadata["what"] == what


def test_upload_begins_with_metadata_and_goes_on_with_data(files: pb.FileServiceStub) -> None:
    head = pb.UploadFileRequest(metadata=pb.UploadFileMetadata(filename="x"))
    data = pb.UploadFileRequest(data=b"x")
    for messages in ((), (data,), (pb.UploadFileRequest(),), (head, data, head), (head, pb.UploadFileRequest())):
        refusal = refused_upload(files, *messages)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_MALFORMED")


def test_chunk_beyond_its_limit_is_refused(files: pb.FileServiceStub) -> None:
    head = pb.UploadFileRequest(metadata=pb.UploadFileMetadata(filename="x"))
    refusal = refused_upload(files, head, pb.UploadFileRequest(data=bytes(2 * MIB + 1)))
    assert refusal.reason == "UPLOAD_MALFORMED"


def test_unary_file_beyond_its_limit_is_refused(files: pb.FileServiceStub) -> None:
    request = pb.CreateFileRequest(filename="x", content=bytes(MIB + 1))
    refusal = refused(lambda: files.CreateFile(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")
    assert "UploadFile" in refusal.message


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "\x00", "漢" * 86])
def test_name_that_is_no_file_name_is_refused(files: pb.FileServiceStub, name: str) -> None:
    refusal = refused(lambda: files.CreateFile(pb.CreateFileRequest(filename=name)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refusal.fields == ["filename"]
    refusal = refused(lambda: upload(files, b"", pb.UploadFileMetadata(filename=name)))
    assert refusal.fields == ["metadata.filename"]


def test_purpose_of_outputs_and_short_lives_are_refused(files: pb.FileServiceStub) -> None:
    request = pb.CreateFileRequest(
        filename="x", purpose=pb.FILE_PURPOSE_ASSISTANTS_OUTPUT, ttl=Duration(seconds=3_599), sha256="ABC"
    )
    assert set(refused(lambda: files.CreateFile(request)).fields) == {"purpose", "ttl", "sha256"}


def test_file_that_expires_says_when(files: pb.FileServiceStub) -> None:
    request = pb.CreateFileRequest(filename="x", ttl=Duration(seconds=3_600))
    file = files.CreateFile(request).file
    assert file.expire_time.seconds - file.create_time.seconds == 3_600


def test_files_are_listed_by_purpose(files: pb.FileServiceStub) -> None:
    made = [
        files.CreateFile(pb.CreateFileRequest(filename="x", purpose=pb.FILE_PURPOSE_VISION)).file.id for _ in range(3)
    ]
    request = pb.ListFilesRequest(purpose=pb.FILE_PURPOSE_VISION, page_size=2)
    first = files.ListFiles(request)
    assert [file.id for file in first.files] == made[:0:-1]
    request.page_token = first.next_page_token
    assert files.ListFiles(request).files[0].id == made[0]
    request.purpose = pb.FILE_PURPOSE_USER_DATA
    assert refused(lambda: files.ListFiles(request)).reason == "PAGE_TOKEN_INVALID"


def test_deleted_file_is_gone_but_not_its_twin(files: pb.FileServiceStub) -> None:
    content = os.urandom(1_000)
    first, second = (files.CreateFile(pb.CreateFileRequest(filename="x", content=content)).file for _ in range(2))
    files.DeleteFile(pb.DeleteFileRequest(file_id=first.id))
    for call in (
        lambda: files.GetFile(pb.GetFileRequest(file_id=first.id)),
        lambda: files.DeleteFile(pb.DeleteFileRequest(file_id=first.id)),
        lambda: files.DownloadFile(pb.DownloadFileRequest(file_id=first.id)),
        lambda: files.ReadFile(pb.ReadFileRequest(file_id=first.id)),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
        assert refusal.message == f"No such File object: {first.id}"
    assert b"".join(download(files, second.id)[1]) == content


def test_upload_that_fails_at_the_client_leaves_nothing(files: pb.FileServiceStub) -> None:
    def messages() -> Iterator[pb.UploadFileRequest]:
        yield pb.UploadFileRequest(metadata=pb.UploadFileMetadata(filename="broken-off"))
        yield pb.UploadFileRequest(data=bytes(100_000))
        raise RuntimeError("the client's disk broke")

    before = files.ListFiles(pb.ListFilesRequest()).files
    refused(lambda: files.UploadFile(messages()))
    assert list(files.ListFiles(pb.ListFilesRequest()).files) == list(before)


def test_upload_that_breaks_off_is_never_taken_for_a_whole_one(files: pb.FileServiceStub) -> None:
    # On the wire the two look alike until the very end, hence many.
    for _ in range(150):
        sent, going_on = threading.Event(), threading.Event()

        def messages(sent: threading.Event = sent, going_on: threading.Event = going_on) -> Iterator[Any]:
            yield pb.UploadFileRequest(metadata=pb.UploadFileMetadata(filename="broken-off"))
            yield pb.UploadFileRequest(data=b"half")
            sent.set()
            going_on.wait()

        call = files.UploadFile.future(messages())
        sent.wait()
        call.cancel()
        going_on.set()
    whole = upload(files, b"whole", pb.UploadFileMetadata(filename="whole"))
    assert files.ListFiles(pb.ListFilesRequest(page_size=1)).files[0].id == whole.id
    assert "broken-off" not in {file.filename for file in files.ListFiles(pb.ListFilesRequest(page_size=100)).files}


def test_request_id_stores_once(files: pb.FileServiceStub) -> None:
    request = pb.CreateFileRequest(filename="x", content=b"x", request_id="once-file")
    first = files.CreateFile(request).file
    assert files.CreateFile(request).file == first
    request.content = b"y"
    refusal = refused(lambda: files.CreateFile(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


def test_link_to_a_file_needs_http(files: pb.FileServiceStub, file: pb.File) -> None:
    refusal = refused(lambda: files.CreateDownloadUrl(pb.CreateDownloadUrlRequest(file_id=file.id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HTTP_DISABLED")
    assert "http.listen" in refusal.message
