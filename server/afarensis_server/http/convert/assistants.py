"""Assistants."""

from typing import cast

from ...assistants.service import AssistantFields
from ...domain.assistants import Assistant
from ..fields import Fields
from .tools import resources_json, resources_value, response_format_json, response_format_value, tool_json, tools_value
from .values import SAMPLING, Json, Shape, seconds

_STRINGS = ("name", "description", "instructions", "reasoning_effort")


def assistant_json(assistant: Assistant, shape: Shape) -> Json:
    found: Json = {
        "id": assistant.id,
        "object": "assistant",
        "created_at": seconds(assistant.create_time),
        "name": assistant.name,
        "description": assistant.description,
        "model": assistant.model,
        "instructions": assistant.instructions,
        "tools": [tool_json(tool) for tool in assistant.tools],
    }
    if shape is Shape.V1:
        found["file_ids"] = list(assistant.tool_resources.code_interpreter_file_ids)
    else:
        found["tool_resources"] = resources_json(assistant.tool_resources, assistant.tools)
    return found | {
        "metadata": dict(assistant.metadata),
        "temperature": SAMPLING if assistant.temperature is None else assistant.temperature,
        "top_p": SAMPLING if assistant.top_p is None else assistant.top_p,
        "response_format": response_format_json(assistant.response_format),
        "reasoning_effort": assistant.reasoning_effort,
    }


def assistant_fields(fields: Fields, *, new: bool) -> AssistantFields:
    """The fields that a request gives; of an update, null clears them. Raises Refused."""
    given: dict[str, object] = {}
    for name in _STRINGS:
        if fields.has(name):
            given[name] = fields.string(name)
    for name in ("temperature", "top_p"):
        if fields.has(name):
            given[name] = fields.number(name)
    if fields.has("model") or new:
        given["model"] = fields.string("model") or ""
    if fields.has("response_format"):
        given["response_format"] = response_format_value(fields)
    if fields.has("metadata"):
        given["metadata"] = fields.metadata()
    if fields.has("tools"):
        given["tools"] = tools_value(fields) or ()
    if (resources := resources_value(fields)) is not None:
        given["tool_resources"] = resources
    fields.finish()
    fields.found.check()
    return cast(AssistantFields, given)
