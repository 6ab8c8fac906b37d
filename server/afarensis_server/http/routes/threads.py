"""/v1/threads and their messages, with the files of messages as v1 had them."""

from starlette.responses import Response

from ...domain.threads import Message, Thread
from ...errors import FileNotFound, MessageNotFound
from ...ids import Prefix
from ...runs.service import Runs
from ...threads.service import Threads
from ..convert.threads import message_fields, message_json, thread_fields, thread_json
from ..convert.values import Json, deleted, seconds
from ..endpoint import Call, JsonResponse
from ..fields import Fields
from ..lists import list_json, page_json, page_request
from .table import Table


class ThreadRoutes:
    def __init__(self, threads: Threads, runs: Runs) -> None:
        self._threads = threads
        self._runs = runs

    def add(self, table: Table) -> None:
        message = "/threads/{thread_id}/messages/{message_id}"
        table.add("/threads", POST=self._create)
        table.add("/threads/{thread_id}", GET=self._get, POST=self._update, DELETE=self._delete)
        table.add("/threads/{thread_id}/messages", GET=self._list_messages, POST=self._create_message)
        table.add(message, GET=self._get_message, POST=self._update_message, DELETE=self._delete_message)
        table.add(f"{message}/files", GET=self._list_files)
        table.add(f"{message}/files/{{file_id}}", GET=self._get_file)

    async def _create(self, call: Call) -> Response:
        body = await call.body()
        fields, messages = thread_fields(body, messages=True)
        body.found.check()
        thread = await self._threads.create(call.project, fields, messages, call.request_id)
        return JsonResponse(thread_json(thread, call.shape))

    async def _get(self, call: Call) -> Response:
        return JsonResponse(thread_json(await self._thread(call), call.shape))

    async def _update(self, call: Call) -> Response:
        body = await call.body()
        fields, _ = thread_fields(body, messages=False)
        body.found.check()
        thread = await self._threads.update(call.project, call.path("thread_id"), fields)
        return JsonResponse(thread_json(thread, call.shape))

    async def _delete(self, call: Call) -> Response:
        thread_id = call.path("thread_id")
        await self._runs.delete_thread(call.project, thread_id)
        return JsonResponse(deleted(thread_id, "thread.deleted"))

    # --- messages -----------------------------------------------------------------------------------------------------

    async def _create_message(self, call: Call) -> Response:
        body = await call.body()
        fields = message_fields(body)
        body.found.check()
        message = await self._threads.create_message(call.project, call.path("thread_id"), fields, call.request_id)
        return JsonResponse(message_json(message, call.shape))

    async def _list_messages(self, call: Call) -> Response:
        wanted = page_request(call, Prefix.MESSAGE)
        thread_id, run_id = call.path("thread_id"), call.query("run_id")
        page = await self._threads.list_messages(call.project, thread_id, wanted, run_id or None)
        return JsonResponse(page_json(page, lambda message: message_json(message, call.shape)))

    async def _get_message(self, call: Call) -> Response:
        return JsonResponse(message_json(await self._message(call), call.shape))

    async def _update_message(self, call: Call) -> Response:
        metadata = metadata_alone(await call.body())
        message = await self._message(call)
        if metadata is not None:
            message = await self._threads.update_message(call.project, message.id, metadata)
        return JsonResponse(message_json(message, call.shape))

    async def _delete_message(self, call: Call) -> Response:
        message = await self._message(call)
        await self._threads.delete_message(call.project, message.id)
        return JsonResponse(deleted(message.id, "thread.message.deleted"))

    async def _list_files(self, call: Call) -> Response:
        message = await self._message(call)
        files = [_file_json(message, attachment.file_id) for attachment in message.attachments]
        return JsonResponse(list_json(files, has_more=False))

    async def _get_file(self, call: Call) -> Response:
        message, file_id = await self._message(call), call.path("file_id")
        if file_id not in {attachment.file_id for attachment in message.attachments}:
            raise FileNotFound(id=file_id)
        return JsonResponse(_file_json(message, file_id))

    async def _thread(self, call: Call) -> Thread:
        return await self._threads.get(call.project, call.path("thread_id"))

    async def _message(self, call: Call) -> Message:
        await self._thread(call)
        return await self._find(call, call.path("message_id"))

    async def _find(self, call: Call, message_id: str) -> Message:
        message = await self._threads.get_message(call.project, message_id)
        if message.thread_id != call.path("thread_id"):
            raise MessageNotFound(id=message_id)
        return message


def metadata_alone(body: Fields) -> dict[str, str] | None:
    """The metadata of an update that can change nothing else; None when it is not given. Raises Refused."""
    metadata = body.metadata() if body.has("metadata") else None
    body.finish()
    body.found.check()
    return metadata


def _file_json(message: Message, file_id: str) -> Json:
    created = seconds(message.create_time)
    return {"id": file_id, "object": "thread.message.file", "created_at": created, "message_id": message.id}
