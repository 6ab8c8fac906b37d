"""Assistants."""

from afarensis import v1 as pb

from ...domain.assistants import Assistant
from .tools import response_format_message, tool_message, tool_resources_message
from .values import timestamp_message


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
