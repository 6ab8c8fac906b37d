"""ThreadService."""

from afarensis import v1 as pb

from ...runs.service import Runs
from ...threads.service import Threads
from ..context import project
from ..convert.threads import (
    message_fields,
    message_inputs,
    message_message,
    thread_fields,
    thread_message,
)
from ..disconnects import Context
from ..masks import fields_to_change, fields_to_create
from ..pages import list_page


class ThreadServicer(pb.ThreadServiceServicer):
    """Keeps threads and their messages."""

    def __init__(self, threads: Threads, runs: Runs) -> None:
        self._threads = threads
        self._runs = runs

    async def CreateThread(self, request: pb.CreateThreadRequest, context: Context) -> pb.CreateThreadResponse:
        fields = thread_fields(request, fields_to_create(request))
        messages = message_inputs(request.messages, "messages")
        thread = await self._threads.create(project(), fields, messages, request.request_id)
        return pb.CreateThreadResponse(thread=thread_message(thread))

    async def GetThread(self, request: pb.GetThreadRequest, context: Context) -> pb.GetThreadResponse:
        thread = await self._threads.get(project(), request.thread_id)
        return pb.GetThreadResponse(thread=thread_message(thread))

    async def ListThreads(self, request: pb.ListThreadsRequest, context: Context) -> pb.ListThreadsResponse:
        threads, token = await list_page(request, lambda page: self._threads.list(project(), page), thread_message)
        return pb.ListThreadsResponse(threads=threads, next_page_token=token)

    async def UpdateThread(self, request: pb.UpdateThreadRequest, context: Context) -> pb.UpdateThreadResponse:
        fields = thread_fields(request, fields_to_change(request, request.update_mask, "thread_id"))
        thread = await self._threads.update(project(), request.thread_id, fields)
        return pb.UpdateThreadResponse(thread=thread_message(thread))

    async def DeleteThread(self, request: pb.DeleteThreadRequest, context: Context) -> pb.DeleteThreadResponse:
        await self._runs.delete_thread(project(), request.thread_id)
        return pb.DeleteThreadResponse()

    async def CreateMessage(self, request: pb.CreateMessageRequest, context: Context) -> pb.CreateMessageResponse:
        fields = message_fields(request)
        message = await self._threads.create_message(project(), request.thread_id, fields, request.request_id)
        return pb.CreateMessageResponse(message=message_message(message))

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.GetMessageResponse:
        message = await self._threads.get_message(project(), request.message_id)
        return pb.GetMessageResponse(message=message_message(message))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        messages, token = await list_page(
            request,
            lambda page: self._threads.list_messages(project(), request.thread_id, page, request.run_id or None),
            message_message,
        )
        return pb.ListMessagesResponse(messages=messages, next_page_token=token)

    async def UpdateMessage(self, request: pb.UpdateMessageRequest, context: Context) -> pb.UpdateMessageResponse:
        if fields_to_change(request, request.update_mask, "message_id"):
            message = await self._threads.update_message(project(), request.message_id, dict(request.metadata))
        else:
            message = await self._threads.get_message(project(), request.message_id)
        return pb.UpdateMessageResponse(message=message_message(message))

    async def DeleteMessage(self, request: pb.DeleteMessageRequest, context: Context) -> pb.DeleteMessageResponse:
        await self._threads.delete_message(project(), request.message_id)
        return pb.DeleteMessageResponse()
