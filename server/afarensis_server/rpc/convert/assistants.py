"""Assistants."""

from collections.abc import Set as AbstractSet
from typing import cast

from afarensis import v1 as pb

from ...assistants.service import AssistantFields
from ...domain.assistants import Assistant
from ...validation import Violations
from .tools import (
    response_format_message,
    response_format_value,
    tool_message,
    tool_resources_message,
    tool_resources_value,
    tools_value,
)
from .values import given, timestamp_message

_SCALARS = ("name", "description", "instructions", "temperature", "top_p", "reasoning_effort")


def assistant_message(assistant: Assistant) -> pb.Assistant:
    return pb.Assistant(
        id=assistant.id,
        create_time=timestamp_message(assistant.create_time),
        name=assistant.name,
        description=assistant.description,
        model=assistant.model,
        instructions=assistant.instructions,
        tools=[tool_message(tool) for tool in assistant.tools],
        tool_resources=tool_resources_message(assistant.tool_resources),
        metadata=assistant.metadata,
        temperature=assistant.temperature,
        top_p=assistant.top_p,
        response_format=response_format_message(assistant.response_format),
        reasoning_effort=assistant.reasoning_effort or "",
    )


def assistant_fields(
    request: pb.CreateAssistantRequest | pb.UpdateAssistantRequest, names: AbstractSet[str]
) -> AssistantFields:
    """The named fields of a request, whose names are the same in both requests and in the domain."""
    found = Violations()
    fields: dict[str, object] = {name: given(request, name) for name in _SCALARS if name in names}
    if "model" in names:
        # Cleared, it becomes the default of the server.
        fields["model"] = request.model
    if "tools" in names:
        fields["tools"] = tools_value(request.tools, "tools", found)
    if "tool_resources" in names:
        fields["tool_resources"] = tool_resources_value(request.tool_resources)
    if "metadata" in names:
        fields["metadata"] = dict(request.metadata)
    if "response_format" in names:
        fields["response_format"] = None
        if request.HasField("response_format"):
            fields["response_format"] = response_format_value(request.response_format, "response_format", found)
    found.check()
    return cast(AssistantFields, fields)
