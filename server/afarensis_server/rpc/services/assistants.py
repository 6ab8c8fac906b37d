"""AssistantService."""

from afarensis import v1 as pb

from ...assistants.service import Assistants
from ..context import project
from ..convert.assistants import assistant_fields, assistant_message
from ..disconnects import Context
from ..masks import fields_to_change, fields_to_create
from ..pages import list_page


class AssistantServicer(pb.AssistantServiceServicer):
    """Keeps assistants."""

    def __init__(self, assistants: Assistants) -> None:
        self._assistants = assistants

    async def CreateAssistant(self, request: pb.CreateAssistantRequest, context: Context) -> pb.CreateAssistantResponse:
        fields = assistant_fields(request, fields_to_create(request))
        assistant = await self._assistants.create(project(), fields, request.request_id)
        return pb.CreateAssistantResponse(assistant=assistant_message(assistant))

    async def GetAssistant(self, request: pb.GetAssistantRequest, context: Context) -> pb.GetAssistantResponse:
        assistant = await self._assistants.get(project(), request.assistant_id)
        return pb.GetAssistantResponse(assistant=assistant_message(assistant))

    async def ListAssistants(self, request: pb.ListAssistantsRequest, context: Context) -> pb.ListAssistantsResponse:
        assistants, token = await list_page(
            request, lambda page: self._assistants.list(project(), page), assistant_message
        )
        return pb.ListAssistantsResponse(assistants=assistants, next_page_token=token)

    async def UpdateAssistant(self, request: pb.UpdateAssistantRequest, context: Context) -> pb.UpdateAssistantResponse:
        fields = assistant_fields(request, fields_to_change(request, request.update_mask, "assistant_id"))
        assistant = await self._assistants.update(project(), request.assistant_id, fields)
        return pb.UpdateAssistantResponse(assistant=assistant_message(assistant))

    async def DeleteAssistant(self, request: pb.DeleteAssistantRequest, context: Context) -> pb.DeleteAssistantResponse:
        await self._assistants.delete(project(), request.assistant_id)
        return pb.DeleteAssistantResponse()
