"""/v1/files: uploads as forms, lists, contents."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from urllib.parse import quote

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from ...domain.files import File, FilePurpose
from ...files.blobs import BlobReader
from ...files.links import Links
from ...files.service import Files, UploadHead
from ...validation import Reason, Violations, echo
from ..convert.files import file_json
from ..convert.values import deleted
from ..endpoint import Call, JsonResponse, Streamed, too_large
from ..errors import Failure, Refused
from ..lists import page_json, page_request
from .table import Table

_PURPOSES = ("assistants", "vision", "user_data")
_FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
_CHUNK = 1024 * 1024
#: What browsers show by themselves and cannot be made to run as a page.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain", "text/csv"})


class FileRoutes:
    """Args: ``file_bytes``: the largest file."""

    def __init__(self, files: Files, links: Links, file_bytes: int) -> None:
        self._files = files
        self._links = links
        self._file_bytes = file_bytes

    def add(self, table: Table) -> None:
        table.add("/files", GET=self._list, POST=self._upload)
        table.add("/files/{file_id}", GET=self._get, DELETE=self._delete)
        table.add("/files/{file_id}/content", GET=self._content)
        table.add("/files/{file_id}/links", POST=self._link)

    async def _upload(self, call: Call) -> Response:
        form = await read_form(call, self._file_bytes)
        try:
            head, content = _upload_of(form)
            head = replace(head, request_id=call.request_id)
            # The whole of it lies on the disk by now, and comes from there in pieces.
            file = await self._files.upload(call.project, head, _chunks(content), under="")
        finally:
            await form.close()
        return JsonResponse(file_json(file))

    async def _list(self, call: Call) -> Response:
        wanted = await page_request(call, lambda file_id: self._find(call, file_id), maximum=10_000, default=100)
        given = call.query("purpose")
        purpose = next((purpose for purpose in FilePurpose if purpose.value == given), None)
        if given and purpose is None:
            return JsonResponse({"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False})
        # Pages of the store are smaller; the client asks on, by `has_more`.
        size = min(wanted.size, 100)
        page = await self._files.list(call.project, replace(wanted, size=size), purpose)
        return JsonResponse(page_json(page, file_json))

    async def _get(self, call: Call) -> Response:
        return JsonResponse(file_json(await self._find(call, call.path("file_id"))))

    async def _content(self, call: Call) -> Response:
        is_linked = await self._is_linked(call)
        file, reader = await self._files.open(call.project, call.path("file_id"))
        # Whoever follows a link looks at it; a program wants a file.
        how = "inline" if is_linked and file.media_type in _SHOWN else "attachment"
        headers = {
            "content-length": str(file.size_bytes),
            "content-disposition": f"{how}; filename*=UTF-8''{quote(file.filename)}",
            # Whatever code has written: no browser is to take it for a page of this server.
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox",
        }
        return Streamed(_content(reader), file.media_type, headers)

    async def _link(self, call: Call) -> Response:
        body = await call.body()
        seconds = body.integer("ttl")
        body.finish()
        body.found.check()
        link = await self._links.create(call.project, call.path("file_id"), seconds)
        return JsonResponse({"object": "file.link", "url": link.url, "expires_at": int(link.expire_time.timestamp())})

    async def _is_linked(self, call: Call) -> bool:
        """Whether the call is by a link. Raises Refused for one that is not good."""
        expires, signature = call.query("expires"), call.query("signature")
        if expires is None and signature is None:
            return False
        if not await self._links.is_good(call.project, call.path("file_id"), expires or "", signature or ""):
            text = "This link has expired, or was changed. Ask whoever gave it to you for a new one."
            raise Refused(Failure(403, text, code="invalid_link"))
        return True

    async def _delete(self, call: Call) -> Response:
        file_id = call.path("file_id")
        await self._files.delete(call.project, file_id)
        return JsonResponse(deleted(file_id, "file"))

    async def _find(self, call: Call, file_id: str) -> File:
        return await self._files.get(call.project, file_id)


async def read_form(call: Call, file_bytes: int) -> FormData:
    """The parts of a form, a large one of them on the disk. To be closed. Raises Refused."""
    kind = call.request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        text = (
            f"Unsupported content type: '{kind[:100]}'. This API method only accepts 'multipart/form-data' requests. "
            "Please try again with a supported content type."
        )
        raise Refused(Failure(400, text, code="unsupported_content_type"))
    limit = file_bytes + call.limits.form_bytes

    async def limited() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in call.chunks():
            received += len(chunk)
            if received > limit:
                raise Refused(too_large(limit))
            yield chunk

    parser = MultiPartParser(
        call.request.headers, limited(), max_files=4, max_fields=32, max_part_size=call.limits.form_bytes
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Refused(Failure(400, f"Could not parse multipart form: {error.message}", code="invalid_form")) from error
    except (UnicodeError, LookupError) as error:
        raise Refused(
            Failure(400, "Could not parse multipart form: its text is not UTF-8.", code="invalid_form")
        ) from error


def _upload_of(form: FormData) -> tuple[UploadHead, UploadFile]:
    found = Violations()
    for name in form:
        if name not in _FIELDS:
            found.add(name, Reason.UNKNOWN, f"Unknown parameter: '{echo(name)}'.")
    content, purpose, ttl = form.get("file"), form.get("purpose"), form.get("expires_after[seconds]")
    if not isinstance(content, UploadFile):
        found.required("file")
    if not purpose:
        found.required("purpose")
    elif purpose not in _PURPOSES:
        listed = ", ".join(f"'{name}'" for name in _PURPOSES)
        text = f"Invalid value: '{echo(str(purpose))}'. Supported values are: {listed}."
        found.add("purpose", Reason.INVALID_VALUE, text)
    seconds: float | None = None
    if ttl is not None:
        with suppress(ValueError):
            seconds = float(str(ttl))
        if seconds is None:
            text = "Invalid type for 'expires_after.seconds': expected an integer."
            found.add("expires_after.seconds", Reason.INVALID_TYPE, text)
    found.check()
    assert isinstance(content, UploadFile)
    media_type = content.content_type or ""
    # What SDKs say of any file is no news.
    media_type = "" if media_type == "application/octet-stream" else media_type
    return UploadHead(content.filename or "", FilePurpose(str(purpose)), media_type, ttl_seconds=seconds), content


def upload_in(form: FormData, name: str = "file") -> tuple[str, AsyncIterator[bytes]]:
    """The name and the content of the form's file, the only thing in it. Raises InvalidFields."""
    found = Violations()
    content = form.get(name)
    if not isinstance(content, UploadFile):
        found.required(name)
    found.check()
    assert isinstance(content, UploadFile)
    return content.filename or "", _chunks(content)


async def _chunks(content: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await content.read(_CHUNK):
        yield chunk


async def _content(reader: BlobReader) -> AsyncIterator[bytes]:
    async with aclosing(reader):
        async for chunk in reader:
            yield chunk
