"""/v1/containers: sessions that stand alone, and the files in them."""

from contextlib import aclosing
from urllib.parse import quote

from starlette.responses import Response

from ...domain.files import FilePurpose
from ...domain.sessions import Session, SessionFile, SessionStatus
from ...errors import DomainError, SessionFileNotFound, SessionNotFound
from ...files.names import media_type_of
from ...files.service import Files, UploadHead
from ...ids import Prefix
from ...sessions.data import SessionData
from ...sessions.service import Sessions
from ..convert.containers import (
    FILE_PREFIX,
    container_file_json,
    container_json,
    container_wishes,
    file_id_of,
    path_of,
)
from ..convert.values import deleted
from ..endpoint import Call, JsonResponse, Streamed
from ..errors import Found
from ..forms import read_form, upload_in
from ..lists import list_json, page_json, page_request, refuse_position, size_and_order
from .table import Table


class ContainerRoutes:
    """Args: ``file_bytes``: the largest file; ``page_files``: the most files of one page."""

    def __init__(self, sessions: Sessions, data: SessionData, files: Files, file_bytes: int, page_files: int) -> None:
        self._sessions = sessions
        self._data = data
        self._files = files
        self._file_bytes = file_bytes
        self._page_files = page_files

    def add(self, table: Table) -> None:
        files = "/containers/{container_id}/files"
        table.add("/containers", GET=self._list, POST=self._create)
        table.add("/containers/{container_id}", GET=self._get, DELETE=self._delete)
        table.add(files, GET=self._list_files, POST=self._add_file)
        table.add(f"{files}/{{file_id}}", GET=self._get_file)
        table.add(f"{files}/{{file_id}}/content", GET=self._content)

    async def _create(self, call: Call) -> Response:
        file_ids, wishes = container_wishes(await call.body(), self._sessions.settings)
        session = await self._sessions.create(call.project, None, file_ids, wishes, call.request_id)
        return JsonResponse(container_json(session))

    async def _list(self, call: Call) -> Response:
        wanted = page_request(call, Prefix.SESSION)
        page = await self._sessions.list(call.project, wanted, status=SessionStatus.ACTIVE)
        return JsonResponse(page_json(page, container_json))

    async def _get(self, call: Call) -> Response:
        return JsonResponse(container_json(await self._find(call, call.path("container_id"))))

    async def _delete(self, call: Call) -> Response:
        session = await self._find(call, call.path("container_id"))
        await self._sessions.close(call.project, session.id)
        return JsonResponse(deleted(session.id, "container.deleted"))

    # --- files --------------------------------------------------------------------------------------------------------

    async def _add_file(self, call: Call) -> Response:
        session = await self._find(call, call.path("container_id"))
        if call.has_form:
            form = await read_form(call, self._file_bytes)
            try:
                name, chunks = upload_in(form)
                head = UploadHead(name, FilePurpose.USER_DATA, request_id=call.request_id)
                file = await self._files.upload(call.project, head, chunks, under="")
            finally:
                await form.close()
        else:
            body = await call.body()
            given = body.string("file_id")
            if not given:
                body.required("file_id")
            body.finish()
            body.found.check()
            file = await self._files.get(call.project, given or "")
        try:
            await self._sessions.add_files(call.project, session.id, [file.id])
        except DomainError:
            if call.has_form:
                # Nothing is half done: it was sent for this container alone.
                await self._files.delete(call.project, file.id)
            raise
        return JsonResponse(container_file_json(session.id, await self._stat(call, file_id_of(file.filename))))

    async def _list_files(self, call: Call) -> Response:
        session = await self._find(call, call.path("container_id"))
        size, is_descending = size_and_order(call, self._page_files, min(20, self._page_files))
        # By path, which is what there is to go by: code sets the times of files as it likes.
        page = await self._data.list(call.project, session.id, "", 10**9, "")
        files = page.items[::-1] if is_descending else page.items
        if after := call.query("after"):
            path = _place(after)
            files = [file for file in files if (file.path < path if is_descending else file.path > path)]
        shown = [container_file_json(session.id, file) for file in files[:size]]
        return JsonResponse(list_json(shown, has_more=len(files) > size))

    async def _get_file(self, call: Call) -> Response:
        container_id = call.path("container_id")
        await self._find(call, container_id)
        return JsonResponse(container_file_json(container_id, await self._stat(call, call.path("file_id"))))

    async def _content(self, call: Call) -> Response:
        call.becomes_stream()
        await self._find(call, call.path("container_id"))
        path = _path(call, call.path("file_id"))
        file, chunks = await self._data.open(call.project, call.path("container_id"), path, 0, 0)
        name = file.path.rpartition("/")[2]
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}",
            # Whatever code has written: no browser is to take it for a page of this server.
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox",
        }
        return Streamed(chunks, media_type_of(name), headers)

    async def _stat(self, call: Call, file_id: str) -> SessionFile:
        file, chunks = await self._data.open(call.project, call.path("container_id"), _path(call, file_id), 0, 0)
        async with aclosing(chunks):
            return file

    async def _find(self, call: Call, container_id: str) -> Session:
        session = await self._sessions.get(call.project, container_id)
        if session.status is SessionStatus.CLOSED:
            # Deleted, as the wire has it.
            raise SessionNotFound(id=container_id)
        return session


def _place(after: str) -> str:
    """The path behind which a list is to go on, whether or not a file is there still. Raises Refused."""
    found = Found()
    path = path_of(after)
    if path is None:
        refuse_position(found, "after", after, FILE_PREFIX)
    found.check()
    return path or ""


def _path(call: Call, file_id: str) -> str:
    path = path_of(file_id)
    if path is None:
        raise SessionFileNotFound(path=file_id[:100], session_id=call.path("container_id"))
    return path
