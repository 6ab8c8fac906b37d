"""/v1/files: uploads as forms, lists, contents."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import quote

from starlette.responses import Response

from ...domain.files import File, FilePurpose
from ...files.blobs import BlobReader
from ...files.links import Links
from ...files.service import Files
from ...ids import Prefix
from ..convert.files import file_json
from ..convert.values import deleted
from ..endpoint import Call, JsonResponse, Streamed
from ..errors import Failure, Refused
from ..forms import chunks_of, read_form, upload_of
from ..lists import page_json, page_request
from ..names import FILE_FORM
from .table import Table

#: What browsers show by themselves and cannot be made to run as a page.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain", "text/csv"})


class FileRoutes:
    """Args: ``file_bytes``: the largest file; ``page_files``: the most files of one page, and the default."""

    def __init__(self, files: Files, links: Links, file_bytes: int, page_files: int) -> None:
        self._files = files
        self._links = links
        self._file_bytes = file_bytes
        self._page_files = page_files

    def add(self, table: Table) -> None:
        table.add("/files", FILE_FORM, GET=self._list, POST=self._upload)
        table.add("/files/{file_id}", GET=self._get, DELETE=self._delete)
        table.add("/files/{file_id}/content", GET=self._content)
        table.add("/files/{file_id}/links", POST=self._link)

    async def _upload(self, call: Call) -> Response:
        form = await read_form(call, self._file_bytes)
        try:
            head, content = upload_of(form)
            head = replace(head, request_id=call.request_id)
            # The whole of it lies on the disk by now, and comes from there in pieces.
            file = await self._files.upload(call.project, head, chunks_of(content), under="")
        finally:
            await form.close()
        return JsonResponse(file_json(file))

    async def _list(self, call: Call) -> Response:
        wanted = page_request(call, Prefix.FILE, maximum=self._page_files, default=self._page_files)
        given = call.query("purpose")
        purpose = next((purpose for purpose in FilePurpose if purpose.value == given), None)
        if given and purpose is None:
            return JsonResponse({"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False})
        page = await self._files.list(call.project, wanted, purpose)
        return JsonResponse(page_json(page, file_json))

    async def _get(self, call: Call) -> Response:
        return JsonResponse(file_json(await self._find(call, call.path("file_id"))))

    async def _content(self, call: Call) -> Response:
        call.becomes_stream()
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


async def _content(reader: BlobReader) -> AsyncIterator[bytes]:
    async with aclosing(reader):
        async for chunk in reader:
            yield chunk
