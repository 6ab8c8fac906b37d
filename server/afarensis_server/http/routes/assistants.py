"""/v1/assistants, with the files of assistants as v1 had them."""

from starlette.responses import Response

from ...assistants.service import Assistants
from ...domain.assistants import Assistant
from ...domain.tools import ToolResources
from ...errors import FileNotFound
from ...ids import Prefix
from ..convert.assistants import assistant_fields, assistant_json
from ..convert.values import Json, deleted, seconds
from ..endpoint import Call, JsonResponse
from ..lists import list_json, page_json, page_request
from .table import Table


class AssistantRoutes:
    def __init__(self, assistants: Assistants) -> None:
        self._assistants = assistants

    def add(self, table: Table) -> None:
        table.add("/assistants", GET=self._list, POST=self._create)
        table.add("/assistants/{assistant_id}", GET=self._get, POST=self._update, DELETE=self._delete)
        table.add("/assistants/{assistant_id}/files", GET=self._list_files, POST=self._add_file)
        table.add("/assistants/{assistant_id}/files/{file_id}", GET=self._get_file, DELETE=self._remove_file)

    async def _create(self, call: Call) -> Response:
        body = await call.body()
        if not body.raw("model"):
            body.required("model")
        fields = assistant_fields(body, new=True)
        assistant = await self._assistants.create(call.project, fields, call.request_id)
        return JsonResponse(assistant_json(assistant, call.shape))

    async def _get(self, call: Call) -> Response:
        return JsonResponse(assistant_json(await self._find(call, call.path("assistant_id")), call.shape))

    async def _list(self, call: Call) -> Response:
        wanted = page_request(call, Prefix.ASSISTANT)
        page = await self._assistants.list(call.project, wanted)
        return JsonResponse(page_json(page, lambda assistant: assistant_json(assistant, call.shape)))

    async def _update(self, call: Call) -> Response:
        fields = assistant_fields(await call.body(), new=False)
        assistant = await self._assistants.update(call.project, call.path("assistant_id"), fields)
        return JsonResponse(assistant_json(assistant, call.shape))

    async def _delete(self, call: Call) -> Response:
        assistant_id = call.path("assistant_id")
        await self._assistants.delete(call.project, assistant_id)
        return JsonResponse(deleted(assistant_id, "assistant.deleted"))

    # --- files --------------------------------------------------------------------------------------------------------

    async def _list_files(self, call: Call) -> Response:
        assistant = await self._find(call, call.path("assistant_id"))
        file_ids = assistant.tool_resources.code_interpreter_file_ids
        return JsonResponse(list_json([_file_json(assistant, file_id) for file_id in file_ids], has_more=False))

    async def _add_file(self, call: Call) -> Response:
        body = await call.body()
        file_id = body.string("file_id") or ""
        if not file_id:
            body.required("file_id")
        body.finish()
        body.found.check()
        assistant = await self._find(call, call.path("assistant_id"))
        file_ids = dict.fromkeys((*assistant.tool_resources.code_interpreter_file_ids, file_id))
        resources = ToolResources(tuple(file_ids))
        assistant = await self._assistants.update(call.project, assistant.id, {"tool_resources": resources})
        return JsonResponse(_file_json(assistant, file_id))

    async def _get_file(self, call: Call) -> Response:
        assistant = await self._find(call, call.path("assistant_id"))
        return JsonResponse(_file_json(assistant, _required(assistant, call.path("file_id"))))

    async def _remove_file(self, call: Call) -> Response:
        assistant = await self._find(call, call.path("assistant_id"))
        file_id = _required(assistant, call.path("file_id"))
        left = tuple(other for other in assistant.tool_resources.code_interpreter_file_ids if other != file_id)
        await self._assistants.update(call.project, assistant.id, {"tool_resources": ToolResources(left)})
        return JsonResponse(deleted(file_id, "assistant.file.deleted"))

    async def _find(self, call: Call, assistant_id: str) -> Assistant:
        return await self._assistants.get(call.project, assistant_id)


def _required(assistant: Assistant, file_id: str) -> str:
    if file_id not in assistant.tool_resources.code_interpreter_file_ids:
        raise FileNotFound(id=file_id)
    return file_id


def _file_json(assistant: Assistant, file_id: str) -> Json:
    created = seconds(assistant.create_time)
    return {"id": file_id, "object": "assistant.file", "created_at": created, "assistant_id": assistant.id}
