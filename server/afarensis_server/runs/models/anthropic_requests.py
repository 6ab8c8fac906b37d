"""Prompts and tools as Anthropic's Messages API has them."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ...domain.runs import RunErrorCode
from ...domain.tools import CodeInterpreterTool, ResponseFormat, ResponseFormatType, Tool, ToolChoiceMode
from . import code_interpreter
from .protocol import (
    AssistantMessage,
    ImageBytes,
    ImageUrl,
    ModelError,
    ModelErrorReason,
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

#: Run's efforts as the API knows them; `none` is no thinking.
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
#: Tokens to think with, for models that take a budget and no effort.
_BUDGETS = {"low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 24_576, "max": 32_768}
#: The smallest budget that the API takes.
_LEAST_BUDGET = 1_024
_HIGHEST_TEMPERATURE = 1.0

#: What stands where the API wants a user's words and there are none.
_EARLIER = "(Earlier messages are left out.)"
_GO_ON = "(Go on.)"
_NOTHING = "(An empty message.)"


class Thinking(StrEnum):
    """How a model is asked to think, the newest way first."""

    ADAPTIVE = "adaptive"
    BUDGET = "budget"
    #: It cannot be asked.
    UNASKED = "unasked"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a model does not take, learned from its refusals. The first request has everything."""

    thinking: Thinking = Thinking.ADAPTIVE
    #: Whether thinking can be turned off.
    thinking_off: bool = True
    #: Whether a tool can be forced. Else the run reminds the model.
    forced_tools: bool = True
    #: Whether the answer can be held to a schema. Else the instructions ask for it.
    output_format: bool = True
    #: Whether code may be streamed while it is written, before the API has checked its JSON.
    eager_input_streaming: bool = True
    #: The most that one answer may take; None: nobody said.
    most_output_tokens: int | None = None


def body(request: ModelRequest, dialect: Dialect, *, max_output_tokens: int) -> Json:
    """The body of a streamed message. Raises ModelError for what the API cannot do.

    Args:
        request: what is asked.
        dialect: what its model takes.
        max_output_tokens: of an answer when the run sets no limit.
    """
    _check(request)
    limit = request.max_completion_tokens or max_output_tokens
    limit = min(limit, dialect.most_output_tokens or limit)
    fields: Json = {
        "model": request.model,
        "max_tokens": limit,
        "messages": _messages(request.messages),
        "stream": True,
        "system": _system(request, dialect),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": [_tool(tool, request.code_seconds, dialect) for tool in request.tools],
        "tool_choice": _tool_choice(request, dialect) if request.tools else None,
        **_thinking(request, dialect, limit),
    }
    if (schema := _output_schema(request.response_format, dialect)) is not None:
        configured = fields.get("output_config")
        fields["output_config"] = {**(configured if isinstance(configured, dict) else {}), "format": schema}
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def _check(request: ModelRequest) -> None:
    if request.temperature is not None and request.temperature > _HIGHEST_TEMPERATURE:
        raise _refused(
            f"The model '{request.model}' takes temperatures from 0 to {_HIGHEST_TEMPERATURE:g}, not "
            f"{request.temperature:g}. Lower it and create a new run."
        )
    if request.reasoning_effort and request.reasoning_effort not in ("none", *_EFFORTS):
        known = ", ".join(f"'{effort}'" for effort in ("none", *_EFFORTS))
        raise _refused(
            f"The model '{request.model}' has no reasoning_effort '{request.reasoning_effort}'. Use one of {known}, "
            "and create a new run."
        )


def _refused(message: str) -> ModelError:
    return ModelError(RunErrorCode.INVALID_PROMPT, ModelErrorReason.MODEL_REQUEST_REFUSED, message)


# --- messages ---------------------------------------------------------------------------------------------------------


def _messages(messages: Sequence[PromptMessage]) -> list[Json]:
    """The conversation as the API wants it: users and assistants by turns, a user first and last, no text empty."""
    turns: list[tuple[str, list[Json]]] = []
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        if not turns or turns[-1][0] != role:
            turns.append((role, []))
        turns[-1][1].extend(_blocks(message))
    told: list[Json] = []
    for role, blocks in turns:
        if role == "assistant" and not blocks:
            continue
        if not told and role == "assistant":
            told.append({"role": "user", "content": [_text(_EARLIER)]})
        if told and told[-1]["role"] == role:
            # What stood between them was empty.
            told[-1] = {"role": role, "content": [*told[-1]["content"], *blocks]}  # type: ignore[misc]  # a list of blocks
        else:
            told.append({"role": role, "content": blocks or [_text(_NOTHING)]})
    if not told or told[-1]["role"] == "assistant":
        told.append({"role": "user", "content": [_text(_GO_ON)]})
    return told


def _blocks(message: PromptMessage) -> Iterator[Json]:
    match message:
        case UserMessage():
            for part in message.parts:
                yield from _user_part(part)
        case AssistantMessage():
            if message.text and message.text.strip():
                yield _text(message.text.rstrip())
            for call in message.tool_calls:
                yield {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)}
        case ToolMessage():
            content = [*_text_blocks(message.text), *(_image(image) for image in message.images)]
            result: Json = {"type": "tool_result", "tool_use_id": message.call_id}
            yield {**result, "content": content} if content else result


def _user_part(part: UserPart) -> Iterator[Json]:
    match part:
        case TextPart():
            yield from _text_blocks(part.text)
        case ImageBytes() | ImageUrl():
            yield _image(part)


def _text_blocks(text: str) -> Iterable[Json]:
    return [_text(text)] if text.strip() else []


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _image(image: ImageBytes | ImageUrl) -> Json:
    if isinstance(image, ImageUrl):
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    data = base64.b64encode(image.data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": data}}


def _input(call: PromptToolCall) -> object:
    """The arguments if they are a JSON object, else an object that holds them, so that the model can correct them."""
    try:
        parsed = json.loads(call.arguments_json)
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {"invalid_arguments": call.arguments_json}


# --- the rest ---------------------------------------------------------------------------------------------------------


def _system(request: ModelRequest, dialect: Dialect) -> str:
    texts = [message.text for message in request.messages if isinstance(message, SystemMessage)]
    wanted = request.response_format
    if wanted is not None and wanted.type is not ResponseFormatType.TEXT:
        # The API has no way to ask for JSON without a schema.
        if wanted.type is ResponseFormatType.JSON_OBJECT or wanted.schema_json is None:
            texts.append("Your last answer must be one JSON object and nothing else: no other words, no code fence.")
        elif not dialect.output_format:
            texts.append(
                "Your last answer must be JSON and nothing else: no other words, no code fence. It must match this "
                f"JSON Schema:\n{wanted.schema_json}"
            )
    return "\n\n".join(text for text in texts if text.strip())


def _output_schema(wanted: ResponseFormat | None, dialect: Dialect) -> Json | None:
    if wanted is None or wanted.type is not ResponseFormatType.JSON_SCHEMA or wanted.schema_json is None:
        return None
    schema = schema_of(wanted.schema_json, "the schema of the response format")
    return {"type": "json_schema", "schema": schema} if dialect.output_format else None


def _tool(tool: Tool, code_seconds: float, dialect: Dialect) -> Json:
    if isinstance(tool, CodeInterpreterTool):
        told: Json = {
            "name": code_interpreter.NAME,
            "description": code_interpreter.description(code_seconds),
            "input_schema": dict(code_interpreter.PARAMETERS),
        }
        # Without, the API holds an argument back until it is whole, and nobody would see code being written.
        return {**told, "eager_input_streaming": True} if dialect.eager_input_streaming else told
    told = {"name": tool.name, "input_schema": {"type": "object", "properties": {}}}
    if tool.description is not None:
        told["description"] = tool.description
    if tool.parameters_json is not None:
        told["input_schema"] = schema_of(tool.parameters_json, f"the parameters of the function '{tool.name}'")
    if tool.strict:
        told["strict"] = True
    return told


def _tool_choice(request: ModelRequest, dialect: Dialect) -> Json | None:
    choice = request.tool_choice
    told: Json
    match choice.mode:
        case ToolChoiceMode.NONE:
            return {"type": "none"}
        case ToolChoiceMode.REQUIRED if dialect.forced_tools:
            told = {"type": "any"}
        case ToolChoiceMode.CODE_INTERPRETER if dialect.forced_tools:
            told = {"type": "tool", "name": code_interpreter.NAME}
        case ToolChoiceMode.FUNCTION if dialect.forced_tools:
            told = {"type": "tool", "name": choice.function_name}
        case _:
            told = {"type": "auto"}
    if not request.parallel_tool_calls:
        told["disable_parallel_tool_use"] = True
    return None if told == {"type": "auto"} else told


def _thinking(request: ModelRequest, dialect: Dialect, max_tokens: int) -> Json:
    """How much the model is to think. Without an effort nothing is said, and the model does what it does.

    What it thought is not sent back in the next call of a run: its signature is bound to the very conversation, which
    we tell with ids of our own, and a run keeps nothing but its steps. Models that take an effort do without; of those
    that take a budget, thinking is asked for only where no answer of a tool waits, since there they would not.
    """
    effort = request.reasoning_effort
    if not effort:
        return {}
    if effort == "none":
        if dialect.thinking_off:
            return {"thinking": {"type": "disabled"}}
        effort = "low"
    # A model cannot both be forced to call a tool and think.
    forced = dialect.forced_tools and request.tool_choice.mode not in (ToolChoiceMode.AUTO, ToolChoiceMode.NONE)
    level = _EFFORTS[effort]
    match dialect.thinking:
        case Thinking.ADAPTIVE:
            asked: Json = {"output_config": {"effort": level}}
            return asked if forced else {**asked, "thinking": {"type": "adaptive"}}
        case Thinking.BUDGET:
            budget = min(_BUDGETS[level], max_tokens // 2)
            in_loop = bool(request.messages) and isinstance(request.messages[-1], ToolMessage)
            if forced or in_loop or budget < _LEAST_BUDGET:
                return {}
            return {"thinking": {"type": "enabled", "budget_tokens": budget}}
        case Thinking.UNASKED:
            return {}
