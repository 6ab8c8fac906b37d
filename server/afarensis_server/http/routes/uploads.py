"""/v1/uploads: files that come in parts."""

from starlette.responses import Response

from ...files.uploads import Uploads
from ..convert.uploads import part_json, upload_head, upload_json
from ..endpoint import Call, JsonResponse
from ..forms import read_form, upload_in
from ..names import UPLOAD
from .table import Table


class UploadRoutes:
    """Args: ``part_bytes``: the largest part."""

    def __init__(self, uploads: Uploads, part_bytes: int) -> None:
        self._uploads = uploads
        self._part_bytes = part_bytes

    def add(self, table: Table) -> None:
        table.add("/uploads", UPLOAD, POST=self._create)
        table.add("/uploads/{upload_id}/parts", POST=self._add_part)
        table.add("/uploads/{upload_id}/complete", POST=self._complete)
        table.add("/uploads/{upload_id}/cancel", POST=self._cancel)

    async def _create(self, call: Call) -> Response:
        head = upload_head(await call.body(), call.request_id)
        return JsonResponse(upload_json(await self._uploads.create(call.project, head)))

    async def _add_part(self, call: Call) -> Response:
        # Before all of it is received.
        upload = await self._uploads.get_pending(call.project, call.path("upload_id"))
        form = await read_form(call, self._part_bytes)
        try:
            _, chunks = upload_in(form, "data")
            part = await self._uploads.add_part(call.project, upload.id, chunks, call.request_id)
        finally:
            await form.close()
        return JsonResponse(part_json(part))

    async def _complete(self, call: Call) -> Response:
        body = await call.body()
        part_ids, md5 = body.strings("part_ids"), body.string("md5") or ""
        if body.raw("part_ids") is None:
            body.required("part_ids")
        body.finish()
        body.found.check()
        upload, file = await self._uploads.complete(call.project, call.path("upload_id"), part_ids or [], md5)
        return JsonResponse(upload_json(upload, file))

    async def _cancel(self, call: Call) -> Response:
        return JsonResponse(upload_json(await self._uploads.cancel(call.project, call.path("upload_id"))))
