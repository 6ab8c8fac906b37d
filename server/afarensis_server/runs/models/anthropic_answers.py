"""Reads the events of a streamed message of Anthropic's Messages API, and of gateways that imitate it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...domain.runs import Usage
from ...ids import call_id
from .answers import BrokenAnswer, SurrogatePairs
from .protocol import Finish, FinishReason, ModelEvent, ModelUsage, ReasoningDelta, TextDelta, ToolCallDelta


@dataclass(slots=True)
class _Block:
    """A block of content that is being received."""

    #: The index of its call in what we tell; None for what is no call.
    call: int | None = None
    #: Arguments that came with the beginning; used when no piece follows.
    whole_input: str = ""
    has_arguments: bool = False
    text: SurrogatePairs = field(default_factory=SurrogatePairs)


class Answer:
    """One answer, fed with its events in order."""

    def __init__(self) -> None:
        self._blocks: dict[object, _Block] = {}
        self._calls = 0
        self._has_text = False
        self._stop_reason: str | None = None
        self._stopped = False
        self._counted: dict[str, int] = {}

    @property
    def is_complete(self) -> bool:
        """Whether the endpoint said that the answer is at its end."""
        return self._stopped

    def read(self, chunk: object) -> Iterator[ModelEvent]:
        """What this event adds; raises BrokenAnswer."""
        if not isinstance(chunk, dict):
            raise BrokenAnswer("sent an event that is not an object. Its answer is lost; try again.")
        match chunk.get("type"):
            case "message_start":
                message = chunk.get("message")
                self._count(message.get("usage") if isinstance(message, dict) else None)
            case "content_block_start":
                yield from self._begin(chunk.get("index"), _object(chunk, "content_block"))
            case "content_block_delta":
                yield from self._continue(chunk.get("index"), _object(chunk, "delta"))
            case "content_block_stop":
                yield from self._finish(self._blocks.get(chunk.get("index")))
            case "message_delta":
                if isinstance(reason := _object(chunk, "delta").get("stop_reason"), str):
                    self._stop_reason = reason
                self._count(chunk.get("usage"))
            case "message_stop":
                self._stopped = True

    def end(self) -> Iterator[ModelEvent]:
        """Usage and Finish, once all events are read; raises BrokenAnswer when the answer is not complete."""
        # Gateways may leave out the last event, but not why the answer ended.
        if self._stop_reason is None:
            raise BrokenAnswer("ended its answer in the middle. Try again.", transient=True)
        reason = self._reason()
        if (usage := self._usage()) is not None:
            yield ModelUsage(usage)
        yield Finish(reason)

    def _reason(self) -> FinishReason:
        match self._stop_reason:
            case "max_tokens" | "model_context_window_exceeded":
                return FinishReason.LENGTH
            case "refusal":
                return FinishReason.CONTENT_FILTER
            case "pause_turn" if not self._calls:
                raise BrokenAnswer(
                    "paused its answer, which it may only do for tools that this server does not use. Try again."
                )
            case "tool_use" if not self._calls:
                raise BrokenAnswer("announced a call but made none. Try again.", transient=not self._has_text)
            case _:
                return FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP

    # --- blocks -------------------------------------------------------------------------------------------------------

    def _begin(self, index: object, content: Mapping[str, object]) -> Iterator[ModelEvent]:
        block = self._blocks[index] = _Block()
        match content.get("type"):
            case "text" if isinstance(text := content.get("text"), str):
                yield from self._say(block, text)
            case "thinking" if isinstance(thought := content.get("thinking"), str) and thought:
                yield ReasoningDelta(block.text.read(thought))
            case "tool_use":
                name, given = content.get("name"), content.get("id")
                if not isinstance(name, str) or not name:
                    raise BrokenAnswer("made a call without saying of which function. Try again.")
                block.call = self._calls
                self._calls += 1
                if content.get("input"):
                    block.whole_input = json.dumps(content["input"])
                yield ToolCallDelta(block.call, given if isinstance(given, str) and given else call_id(), name)

    def _continue(self, index: object, delta: Mapping[str, object]) -> Iterator[ModelEvent]:
        block = self._blocks.setdefault(index, _Block())
        match delta.get("type"):
            case "text_delta" if isinstance(text := delta.get("text"), str):
                yield from self._say(block, text)
            case "thinking_delta" if isinstance(thought := delta.get("thinking"), str):
                if thought := block.text.read(thought):
                    yield ReasoningDelta(thought)
            case "input_json_delta" if isinstance(piece := delta.get("partial_json"), str):
                if block.call is None:
                    raise BrokenAnswer("sent arguments of no call. Its answer is lost; try again.")
                if piece := block.text.read(piece):
                    block.has_arguments = True
                    yield ToolCallDelta(block.call, arguments_json=piece)

    def _finish(self, block: _Block | None) -> Iterator[ModelEvent]:
        if block is not None and block.call is not None and not block.has_arguments:
            block.has_arguments = True
            yield ToolCallDelta(block.call, arguments_json=block.whole_input or "{}")

    def _say(self, block: _Block, text: str) -> Iterator[ModelEvent]:
        if text := block.text.read(text):
            self._has_text = True
            yield TextDelta(text)

    # --- tokens -------------------------------------------------------------------------------------------------------

    def _count(self, usage: object) -> None:
        """Take over what is counted anew; later numbers are those of the whole answer."""
        if not isinstance(usage, dict):
            return
        details = usage.get("output_tokens_details")
        for counted in (usage, details if isinstance(details, dict) else {}):
            for name, value in counted.items():
                if isinstance(value, int) and value >= 0:
                    self._counted[name] = value

    def _usage(self) -> Usage | None:
        """What the endpoint counted; None when that is nothing, which no prompt is."""
        counted = self._counted
        cached = counted.get("cache_read_input_tokens", 0)
        prompt = counted.get("input_tokens", 0) + counted.get("cache_creation_input_tokens", 0) + cached
        if not prompt:
            return None
        completion = counted.get("output_tokens", 0)
        thinking = min(counted.get("thinking_tokens", 0), completion)
        return Usage(prompt, completion, cached_prompt_tokens=cached, reasoning_tokens=thinking)


def _object(chunk: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = chunk.get(name)
    if not isinstance(value, dict):
        raise BrokenAnswer(f"sent an event without its {name}. Its answer is lost; try again.")
    return value
