"""Estimates tokens where nobody counted them: before a call, while one is under way, and after one that told nothing.

The measure is deliberately plain, so that it means the same for every provider: four characters are a token, a Chinese,
Japanese or Korean one is a token of its own, an image costs by its detail, a message and a tool a little for what
stands around them. For English and code it is within a quarter of what tokenizers count, mostly above.
"""

import re
from collections.abc import Iterable

from ...domain.runs import Usage
from ...domain.tools import CodeInterpreterTool, Tool
from . import code_interpreter
from .protocol import (
    AssistantMessage,
    ImageBytes,
    ImageUrl,
    ModelEvent,
    ModelRequest,
    PromptMessage,
    ReasoningDelta,
    RefusalDelta,
    SystemMessage,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)

#: What `Usage.estimator` names. Another measure needs another name.
ESTIMATOR = "afarensis-chars-v1"

_CHARACTERS_PER_TOKEN = 4
#: Scripts whose characters are about a token each: CJK, kana, hangul, and the planes of rarer ideographs.
_DENSE = re.compile(
    "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]+"
)
#: The role and the marks around a message.
_MESSAGE_TOKENS = 4
#: The marks around a tool's definition.
_TOOL_TOKENS = 8
#: What an image costs at most: OpenAI's price of a small one, and between OpenAI's and Anthropic's of a large one.
_IMAGE_TOKENS = {"low": 85}
_LARGE_IMAGE_TOKENS = 1_000
#: The code interpreter's definition does not change its length by the seconds in it.
_CODE_INTERPRETER_CHARACTERS = (
    len(code_interpreter.NAME) + len(code_interpreter.description(120)) + len(str(code_interpreter.PARAMETERS))
)


class _Characters:
    """Counts characters by how many of them make a token; pieces add up to what their whole would give."""

    def __init__(self) -> None:
        self._light = 0
        self._dense = 0

    def add(self, text: str) -> None:
        dense = 0 if text.isascii() else sum(len(run) for run in _DENSE.findall(text))
        self._dense += dense
        self._light += len(text) - dense

    @property
    def tokens(self) -> int:
        return self._dense - (-self._light // _CHARACTERS_PER_TOKEN)


def estimate_text(text: str) -> int:
    """About how many tokens this text is."""
    characters = _Characters()
    characters.add(text)
    return characters.tokens


def estimate_prompt(messages: Iterable[PromptMessage], tools: Iterable[Tool] = ()) -> int:
    """About how many tokens these messages and tools cost as a prompt."""
    return sum(_message(message) for message in messages) + sum(_tool(tool) for tool in tools)


class UsageEstimator:
    """The tokens of one model call, as far as it has come.

    Feed it each event of the answer; `usage` may be read at any time, also after the call was cut, cancelled or failed.
    """

    def __init__(self, request: ModelRequest) -> None:
        self._request = request
        self._prompt_tokens: int | None = None
        self._said = _Characters()
        self._reasoned = _Characters()

    def note(self, event: ModelEvent) -> None:
        """Count what this event adds."""
        match event:
            case TextDelta() | RefusalDelta():
                self._said.add(event.text)
            case ToolCallDelta():
                self._said.add(event.name or "")
                self._said.add(event.arguments_json)
            case ReasoningDelta():
                self._reasoned.add(event.text)

    @property
    def prompt_tokens(self) -> int:
        if self._prompt_tokens is None:
            self._prompt_tokens = estimate_prompt(self._request.messages, self._request.tools)
        return self._prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Those of the events so far, reasoning included."""
        return self._said.tokens + self._reasoned.tokens

    @property
    def usage(self) -> Usage:
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            reasoning_tokens=self._reasoned.tokens,
            estimator=ESTIMATOR,
        )


def _message(message: PromptMessage) -> int:
    tokens = _MESSAGE_TOKENS
    match message:
        case SystemMessage():
            tokens += estimate_text(message.text)
        case UserMessage():
            for part in message.parts:
                tokens += estimate_text(part.text) if isinstance(part, TextPart) else _image(part)
        case AssistantMessage():
            tokens += estimate_text(message.text or "")
            tokens += sum(
                _MESSAGE_TOKENS + estimate_text(call.name) + estimate_text(call.arguments_json)
                for call in message.tool_calls
            )
        case ToolMessage():
            tokens += estimate_text(message.text) + sum(_image(image) for image in message.images)
    return tokens


def _image(image: ImageBytes | ImageUrl) -> int:
    return _IMAGE_TOKENS.get(image.detail or "", _LARGE_IMAGE_TOKENS)


def _tool(tool: Tool) -> int:
    if isinstance(tool, CodeInterpreterTool):
        return _TOOL_TOKENS + _CODE_INTERPRETER_CHARACTERS // _CHARACTERS_PER_TOKEN
    described = (tool.name, tool.description or "", tool.parameters_json or "")
    return _TOOL_TOKENS + sum(estimate_text(text) for text in described)
