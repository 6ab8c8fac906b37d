"""Messages and calls as models read them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..domain.executions import DisplayItem
from ..domain.runs import CodeInterpreterCall, FunctionCall, ToolCall
from ..domain.threads import ImageFileContent, ImageUrlContent, Message, MessageRole, RefusalContent, TextContent
from .images import MEDIA_TYPES
from .models import code_interpreter
from .models.protocol import (
    AssistantMessage,
    ImageBytes,
    ImageUrl,
    PromptMessage,
    PromptToolCall,
    TextPart,
    ToolMessage,
    UserMessage,
    UserPart,
)
from .models.transcript import render, shortened

#: What stands for an image, by file id: itself, or why it is not shown.
Pictures = Mapping[str, ImageBytes | str]


@dataclass(frozen=True, slots=True)
class Cut:
    """How many characters of calls a model reads; the middle of more is left out. None: all of them."""

    #: Of what code put out.
    output: int
    #: Of code, and of the arguments of functions.
    asked: int | None = None
    #: Of what clients answered to calls of their functions.
    answered: int | None = None


def message_read(message: Message, pictures: Pictures) -> PromptMessage:
    """A message of the thread."""
    if message.role is MessageRole.ASSISTANT:
        return AssistantMessage(text=text_of(message))
    parts: list[UserPart] = []
    for content in message.content:
        match content:
            case TextContent():
                parts.append(TextPart(content.value))
            case RefusalContent():
                parts.append(TextPart(content.refusal))
            case ImageUrlContent():
                parts.append(ImageUrl(content.url, content.detail))
            case ImageFileContent():
                picture = pictures[content.file_id]
                if isinstance(picture, ImageBytes):
                    parts.append(replace(picture, detail=content.detail))
                else:
                    parts.append(TextPart(picture))
    return UserMessage(tuple(parts))


def turn_read(calls: Sequence[ToolCall], pictures: Pictures, cut: Cut) -> list[PromptMessage]:
    """Calls and their answers; none without calls."""
    if not calls:
        return []
    asked = AssistantMessage(tool_calls=tuple(_asked(call, cut.asked) for call in calls))
    return [asked, *(_answered(call, pictures, cut) for call in calls)]


def displayed(call: CodeInterpreterCall) -> list[str]:
    """The images that code showed and that models can see, one of each display."""
    found: dict[str, str] = {}
    for item in call.outputs:
        if isinstance(item, DisplayItem):
            forms = (form for form in item.representations if form.file_id and form.media_type in MEDIA_TYPES)
            if (form := next(forms, None)) is not None and form.file_id is not None:
                found.setdefault(form.sha256 or form.file_id, form.file_id)
    return list(found.values())


def text_of(message: Message) -> str:
    """A message in words; images are named."""
    texts = []
    for content in message.content:
        match content:
            case TextContent():
                texts.append(content.value)
            case RefusalContent():
                texts.append(content.refusal)
            case ImageFileContent():
                texts.append(f"[image {content.file_id}]")
            case ImageUrlContent():
                texts.append(f"[image {content.url}]")
    return "\n".join(text for text in texts if text)


def join_turns(said: list[PromptMessage]) -> list[PromptMessage]:
    """Text and calls of one answer as one message: endpoints refuse two assistant messages in a row."""
    joined: list[PromptMessage] = []
    for message in said:
        last = joined[-1] if joined else None
        if isinstance(message, AssistantMessage) and isinstance(last, AssistantMessage) and not last.tool_calls:
            joined[-1] = AssistantMessage(text=last.text, tool_calls=message.tool_calls)
        else:
            joined.append(message)
    return joined


def _asked(call: ToolCall, characters: int | None) -> PromptToolCall:
    if isinstance(call, CodeInterpreterCall):
        return PromptToolCall(call.id, code_interpreter.NAME, code_interpreter.arguments(_cut(call.input, characters)))
    arguments = _cut(call.arguments_json, characters)
    if arguments != call.arguments_json:
        arguments = json.dumps({"shortened": arguments}, ensure_ascii=False)
    return PromptToolCall(call.id, call.name, arguments)


def _answered(call: ToolCall, pictures: Pictures, cut: Cut) -> ToolMessage:
    if isinstance(call, FunctionCall):
        return ToolMessage(call.id, _cut(call.output or "", cut.answered))
    assert call.result is not None, "only answered calls are shown"
    text = render(call.outputs, call.result, state_lost=call.state_lost, limit_characters=cut.output)
    shown = [pictures.get(file_id) for file_id in displayed(call)]
    return ToolMessage(call.id, text, tuple(image for image in shown if isinstance(image, ImageBytes)))


def _cut(text: str, characters: int | None) -> str:
    return text if characters is None else shortened(text, characters, "")
