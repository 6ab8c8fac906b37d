"""Prompts and tools as OpenAI's chat completions have them."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...domain.tools import (
    CodeInterpreterTool,
    ResponseFormat,
    ResponseFormatType,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from . import code_interpreter
from .protocol import (
    AssistantMessage,
    ImageBytes,
    ModelRequest,
    PromptMessage,
    PromptToolCall,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    UserPart,
)
from .schemas import schema_of

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an endpoint's model does not take, learned from its refusals.

    The first request has everything.
    """

    #: Older vLLM, Fireworks and others refuse ``stream_options`` as an unknown field. Then there is no usage.
    stream_options: bool = True
    parallel_tool_calls: bool = True
    #: Else ``max_completion_tokens``. The old name is tried first, because endpoints that lack the new one ignore it
    #: silently (Ollama), and those that dropped the old one say so (OpenAI's reasoning models).
    max_tokens: bool = True
    #: Whether the images that code showed can be sent along. Models without vision refuse them.
    tool_images: bool = True


def body(request: ModelRequest, dialect: Dialect) -> Json:
    """The body of a streamed chat completion."""
    fields: Json = {
        "model": request.model,
        "messages": list(_messages(request.messages, dialect)),
        "stream": True,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning_effort": request.reasoning_effort,
        "response_format": _response_format(request.response_format),
        "max_tokens" if dialect.max_tokens else "max_completion_tokens": request.max_completion_tokens,
    }
    if dialect.stream_options:
        fields["stream_options"] = {"include_usage": True}
    if request.tools:
        fields["tools"] = [_tool(tool, request.code_seconds) for tool in request.tools]
        fields["tool_choice"] = _tool_choice(request.tool_choice)
        # Sent only when it changes something: many endpoints do not know it.
        if not request.parallel_tool_calls and dialect.parallel_tool_calls:
            fields["parallel_tool_calls"] = False
    return {name: value for name, value in fields.items() if value is not None}


def _messages(messages: Sequence[PromptMessage], dialect: Dialect) -> Iterable[Json]:
    # Chat templates of some models (Mistral, Gemma) refuse two user messages in a row, so neighbors are joined.
    user: list[UserPart] = []
    for message in messages:
        if isinstance(message, UserMessage):
            user += message.parts
            continue
        if isinstance(message, ToolMessage):
            yield {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
            if message.images and dialect.tool_images:
                # Tool messages hold text only, and stand together: what they showed follows as the user's.
                user += [TextPart("Images shown by code_interpreter:"), *message.images]
            continue
        if user:
            yield _user_message(user)
            user = []
        match message:
            case SystemMessage():
                yield {"role": "system", "content": message.text}
            case AssistantMessage(tool_calls=()):
                yield {"role": "assistant", "content": message.text or ""}
            case AssistantMessage():
                yield {
                    "role": "assistant",
                    "content": message.text,
                    "tool_calls": [_tool_call(call) for call in message.tool_calls],
                }
    if user:
        yield _user_message(user)


def _user_message(parts: Sequence[UserPart]) -> Json:
    if all(isinstance(part, TextPart) for part in parts):
        # A plain string where it is enough: not every endpoint takes a list.
        return {"role": "user", "content": "\n\n".join(part.text for part in parts if isinstance(part, TextPart))}
    return {"role": "user", "content": [_user_part(part) for part in parts]}


def _user_part(part: UserPart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImageBytes):
        image: Json = {"url": f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"}
    else:
        image = {"url": part.url}
    if part.detail is not None:
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def _tool_call(call: PromptToolCall) -> Json:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": _valid_arguments(call.arguments_json)},
    }


def _valid_arguments(arguments_json: str) -> str:
    """The arguments if they are a JSON object, else an object that holds them.

    vLLM and llama.cpp parse the calls of earlier turns and refuse the whole prompt over one slip of the model, which
    could then never correct it.
    """
    try:
        parsed = json.loads(arguments_json)
    except (ValueError, RecursionError):
        parsed = None
    return arguments_json if isinstance(parsed, dict) else json.dumps({"invalid_arguments": arguments_json})


def _tool(tool: Tool, code_seconds: float) -> Json:
    if isinstance(tool, CodeInterpreterTool):
        function: Json = {
            "name": code_interpreter.NAME,
            "description": code_interpreter.description(code_seconds),
            "parameters": dict(code_interpreter.PARAMETERS),
        }
    else:
        function = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.parameters_json is not None:
            function["parameters"] = schema_of(tool.parameters_json, f"the parameters of the function '{tool.name}'")
        if tool.strict is not None:
            function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | Json | None:
    match choice.mode:
        case ToolChoiceMode.AUTO:
            return None
        case ToolChoiceMode.NONE | ToolChoiceMode.REQUIRED:
            return choice.mode.value
        case ToolChoiceMode.CODE_INTERPRETER:
            return {"type": "function", "function": {"name": code_interpreter.NAME}}
        case ToolChoiceMode.FUNCTION:
            return {"type": "function", "function": {"name": choice.function_name}}


def _response_format(response_format: ResponseFormat | None) -> Json | None:
    if response_format is None or response_format.type is ResponseFormatType.TEXT:
        return None
    if response_format.type is ResponseFormatType.JSON_OBJECT:
        return {"type": "json_object"}
    described: Json = {
        "name": response_format.name,
        "description": response_format.description,
        "schema": None
        if response_format.schema_json is None
        else schema_of(response_format.schema_json, "the schema of the response format"),
        "strict": response_format.strict,
    }
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in described.items() if value is not None},
    }
