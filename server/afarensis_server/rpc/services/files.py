"""FileService."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import cast

from afarensis import v1 as pb

from ...errors import UploadMalformed
from ...files.links import Links
from ...files.service import Files
from ...validation import Violations
from ..context import project
from ..convert.files import file_message, purpose_value, upload_head
from ..convert.values import seconds_value, timestamp_message
from ..disconnects import Context, confirm_that_requests_are_complete
from ..pages import list_page
from ..serialized import Serialized

#: The most data in one message of an upload.
_CHUNK_BYTES = 2 * 1024 * 1024
#: What stands before the length of a message's data: the number of the field, and that it has a length.
_DATA_TAG = bytes([pb.DownloadFileResponse.DESCRIPTOR.fields_by_name["data"].number << 3 | 2])


class FileServicer(pb.FileServiceServicer):
    """Keeps files."""

    def __init__(self, files: Files, links: Links) -> None:
        self._files = files
        self._links = links

    async def CreateFile(self, request: pb.CreateFileRequest, context: Context) -> pb.CreateFileResponse:
        file = await self._files.create(project(), upload_head(request, ""), request.content)
        return pb.CreateFileResponse(file=file_message(file))

    async def UploadFile(
        self, requests: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "metadata":
            raise UploadMalformed(problem="The upload does not begin with metadata.")
        # Each chunk is asked for when the one before it is written, so that a fast client waits and nothing gathers.
        file = await self._files.upload(project(), upload_head(first.metadata, "metadata."), _data(requests, context))
        return pb.UploadFileResponse(file=file_message(file))

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> pb.GetFileResponse:
        return pb.GetFileResponse(file=file_message(await self._files.get(project(), request.file_id)))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> pb.ListFilesResponse:
        found = Violations()
        purpose = purpose_value(request.purpose, "purpose", found)
        found.check()
        files, token = await list_page(request, lambda page: self._files.list(project(), page, purpose), file_message)
        return pb.ListFilesResponse(files=files, next_page_token=token)

    async def ReadFile(self, request: pb.ReadFileRequest, context: Context) -> pb.ReadFileResponse:
        file, data = await self._files.read(project(), request.file_id, request.offset_bytes, request.limit_bytes)
        return pb.ReadFileResponse(file=file_message(file), data=data)

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Context
    ) -> AsyncIterator[pb.DownloadFileResponse]:
        limit = request.limit_bytes or None
        file, reader = await self._files.open(project(), request.file_id, request.offset_bytes, limit)
        async with aclosing(reader):
            yield pb.DownloadFileResponse(file=file_message(file))
            async for chunk in reader:
                yield _piece(chunk)

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Context) -> pb.DeleteFileResponse:
        await self._files.delete(project(), request.file_id)
        return pb.DeleteFileResponse()

    async def CreateDownloadUrl(
        self, request: pb.CreateDownloadUrlRequest, context: Context
    ) -> pb.CreateDownloadUrlResponse:
        seconds = None
        if request.HasField("ttl"):
            found = Violations()
            seconds = seconds_value(request.ttl, "ttl", found)
            found.check()
        link = await self._links.create(project(), request.file_id, seconds)
        return pb.CreateDownloadUrlResponse(url=link.url, expire_time=timestamp_message(link.expire_time))


def _piece(data: bytes) -> pb.DownloadFileResponse:
    """A message that holds data, in its serialized form: the message itself would be two copies more."""
    return cast(pb.DownloadFileResponse, Serialized(b"".join((_DATA_TAG, _varint(len(data)), data))))


def _varint(value: int) -> bytes:
    """A length as protobuf writes it: seven bits to a byte, the lowest first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


async def _data(requests: AsyncIterator[pb.UploadFileRequest], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "data":
            raise UploadMalformed(problem="A message after the first one holds no data.")
        # Once: each look at it is a copy.
        data = request.data
        if len(data) > _CHUNK_BYTES:
            raise UploadMalformed(problem=f"A message holds more than {_CHUNK_BYTES} bytes of data.")
        yield data
    await confirm_that_requests_are_complete(context)
