import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

import afarensis
from afarensis import v1

from .scripted_server import ScriptedServer, abort

CONTENT = bytes(range(256)) * 4096
FILE = v1.File(id="file-1", filename="data.bin", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


def stored(messages: list[v1.UploadFileRequest], _: grpc.ServicerContext) -> v1.UploadFileResponse:
    return v1.UploadFileResponse(file=v1.File(id="file-1", filename=messages[0].metadata.filename))


def known(_: v1.GetFileRequest, __: grpc.ServicerContext) -> v1.GetFileResponse:
    return v1.GetFileResponse(file=FILE)


def sent(
    request: v1.DownloadFileRequest, content: bytes = CONTENT, chunk: int = 100_000
) -> Iterator[v1.DownloadFileResponse]:
    yield v1.DownloadFileResponse(file=FILE)
    for offset in range(request.offset_bytes, len(content), chunk):
        yield v1.DownloadFileResponse(data=content[offset : offset + chunk])


def broken(context: grpc.ServicerContext) -> None:
    abort(context, grpc.StatusCode.UNAVAILABLE, "The connection broke.")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "données.bin"
    path.write_bytes(CONTENT)
    return path


def test_uploaded_file_comes_whole_with_its_checksum_and_size(
    server: ScriptedServer, client: afarensis.Client, source: Path
) -> None:
    server.answer("UploadFile", stored)

    file = client.upload(source, purpose=v1.FILE_PURPOSE_USER_DATA, ttl=3600)

    (messages,) = server.asked("UploadFile")
    metadata = messages[0].metadata
    assert file.filename == metadata.filename == "données.bin"
    assert metadata.purpose == v1.FILE_PURPOSE_USER_DATA
    assert metadata.ttl.seconds == 3600
    assert (metadata.size_bytes, metadata.sha256) == (FILE.size_bytes, FILE.sha256)
    assert b"".join(message.data for message in messages[1:]) == CONTENT


def test_empty_file_is_uploaded_as_metadata_alone(
    server: ScriptedServer, client: afarensis.Client, tmp_path: Path
) -> None:
    server.answer("UploadFile", stored)
    (tmp_path / "empty.txt").touch()

    client.upload(tmp_path / "empty.txt", filename="renamed.txt")

    (messages,) = server.asked("UploadFile")
    assert len(messages) == 1
    assert messages[0].metadata.HasField("size_bytes")
    assert messages[0].metadata.filename == "renamed.txt"


def test_broken_upload_is_sent_again_under_the_same_request_id(
    server: ScriptedServer, client: afarensis.Client, source: Path
) -> None:
    server.answer("UploadFile", lambda _, context: broken(context), stored)
    progress: list[tuple[int, int]] = []

    client.upload(source, progress=lambda done, size: progress.append((done, size)))

    first, second = server.asked("UploadFile")
    assert first[0].metadata.request_id == second[0].metadata.request_id != ""
    assert progress[-1] == (len(CONTENT), len(CONTENT))


def test_refused_upload_is_not_sent_again(server: ScriptedServer, client: afarensis.Client, source: Path) -> None:
    server.answer("UploadFile", lambda _, context: abort(context, grpc.StatusCode.INVALID_ARGUMENT, "No."))

    with pytest.raises(afarensis.Error, match="INVALID_ARGUMENT"):
        client.upload(source)

    assert len(server.asked("UploadFile")) == 1


def test_download_writes_the_file_under_its_own_name_into_a_directory(
    server: ScriptedServer, client: afarensis.Client, tmp_path: Path
) -> None:
    server.answer("GetFile", known)
    server.answer("DownloadFile", lambda request, _: sent(request))
    progress: list[int] = []

    file = client.download("file-1", tmp_path, progress=lambda done, _: progress.append(done))

    assert file == FILE
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert progress[-1] == len(CONTENT)
    assert progress == sorted(progress)


def test_broken_download_goes_on_where_it_was(server: ScriptedServer, client: afarensis.Client, tmp_path: Path) -> None:
    def breaks(request: v1.DownloadFileRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        messages = sent(request)
        for _ in range(3):
            yield next(messages)
        broken(context)

    server.answer("GetFile", known)
    server.answer("DownloadFile", breaks, breaks, lambda request, _: sent(request))

    client.download("file-1", tmp_path / "copy.bin")

    assert (tmp_path / "copy.bin").read_bytes() == CONTENT
    assert [request.offset_bytes for request in server.asked("DownloadFile")] == [0, 200_000, 400_000]


@pytest.mark.parametrize("content", [b"x" * len(CONTENT), CONTENT[:-1], CONTENT + b"x"], ids=["wrong", "short", "long"])
def test_download_with_other_content_leaves_the_target_as_it_was(
    server: ScriptedServer, client: afarensis.Client, tmp_path: Path, content: bytes
) -> None:
    server.answer("GetFile", known)
    server.answer("DownloadFile", lambda request, _: sent(request, content))
    (tmp_path / "copy.bin").write_text("before")

    with pytest.raises(afarensis.Error) as caught:
        client.download("file-1", tmp_path / "copy.bin")

    assert caught.value.status is grpc.StatusCode.DATA_LOSS
    assert [path.name for path in tmp_path.iterdir()] == ["copy.bin"]
    assert (tmp_path / "copy.bin").read_text() == "before"


def test_file_name_of_the_server_does_not_lead_out_of_the_directory(
    server: ScriptedServer, client: afarensis.Client, tmp_path: Path
) -> None:
    empty = v1.File(id="file-1", filename="../../outside.txt", sha256=hashlib.sha256().hexdigest())
    server.answer("GetFile", lambda *_: v1.GetFileResponse(file=empty))
    (tmp_path / "inside").mkdir()

    client.download("file-1", tmp_path / "inside")

    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["outside.txt"]


def test_file_whose_name_has_as_many_bytes_as_a_name_can_have_is_downloaded(
    server: ScriptedServer, client: afarensis.Client, tmp_path: Path
) -> None:
    name = "數" * 83 + "xx.csv"
    file = v1.File(id="file-1", filename=name, size_bytes=FILE.size_bytes, sha256=FILE.sha256)
    server.answer("GetFile", lambda *_: v1.GetFileResponse(file=file))
    server.answer("DownloadFile", lambda request, _: sent(request))

    client.download("file-1", tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == CONTENT


def test_text_names_its_files_and_passes_over_deleted_ones(server: ScriptedServer, client: afarensis.Client) -> None:
    def get(request: v1.GetFileRequest, context: grpc.ServicerContext) -> v1.GetFileResponse:
        if request.file_id == "file-gone":
            abort(context, grpc.StatusCode.NOT_FOUND, "No such File object: file-gone")
        return v1.GetFileResponse(file=v1.File(id=request.file_id, filename=f"{request.file_id}.csv"))

    server.answer("GetFile", get, get, get)
    text = "See sandbox:/mnt/data/a and sandbox:/mnt/data/b."
    message = v1.Message()
    message.content.add().image_file.file_id = "file-image"
    message.content.add().text.value = text
    for place, file_id in (("sandbox:/mnt/data/a", "file-a"), ("sandbox:/mnt/data/b", "file-gone")):
        annotation = message.content[1].text.annotations.add(text=place, start_index=text.index(place))
        annotation.end_index = annotation.start_index + len(place)
        annotation.file_path.file_id = file_id

    resolved, files = client.text_with_files(message)

    assert resolved == "See file-a.csv and sandbox:/mnt/data/b."
    assert [file.id for file in files] == ["file-image", "file-a"]


def shutting_down(context: grpc.ServicerContext) -> None:
    details = (ErrorInfo(reason="SHUTTING_DOWN"), RetryInfo(retry_delay=Duration(nanos=50_000_000)))
    abort(context, grpc.StatusCode.UNAVAILABLE, "The server is shutting down.", *details)


def test_text_with_files_outlasts_a_restart_of_the_server(server: ScriptedServer, client: afarensis.Client) -> None:
    annotation = v1.Annotation(start_index=4, end_index=24, file_path=v1.FilePathAnnotation(file_id="file-1"))
    text = v1.TextContent(value="See sandbox:/mnt/data/x.", annotations=[annotation])
    message = v1.Message(content=[v1.MessageContent(text=text)])
    server.answer("GetFile", *[lambda _, context: shutting_down(context)] * 2, known)

    told, files = client.text_with_files(message)

    assert told == "See data.bin"
    assert files == [FILE]


def test_download_outlasts_a_restart_of_the_server_before_its_first_byte(
    server: ScriptedServer, client: afarensis.Client, tmp_path: Path
) -> None:
    server.answer("GetFile", lambda _, context: shutting_down(context), known)
    server.answer("DownloadFile", lambda request, _: sent(request))

    client.download("file-1", tmp_path)

    assert (tmp_path / "data.bin").read_bytes() == CONTENT
