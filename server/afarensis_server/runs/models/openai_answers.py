"""Reads the chunks of a streamed chat completion, as endpoints really send them.

Differences that are known and handled: chunks without choices (usage, content filter results); usage in every chunk, in
a field of the vendor's own (Groq), or not at all; calls that arrive whole, without an index, all with index 0, without
an id (Ollama, LiteLLM, vLLM), with the name in every piece, or one before another that began earlier; the single
``function_call`` of old; arguments as an object instead of a string (Ollama); ids repeated, or empty, on later pieces;
content as a list of parts (Mistral); reasoning in a field (``reasoning_content``, ``reasoning``), a part, or a
``<think>`` block; the whole answer as a ``message``; ``finish_reason`` stop, function_call or end_turn where calls were
made, reasons of their own, and none at all before ``[DONE]``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...domain.runs import Usage
from ...ids import call_id
from .answers import BrokenAnswer, SurrogatePairs
from .protocol import (
    Finish,
    FinishReason,
    ModelEvent,
    ModelUsage,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from .reasoning import ThinkTags

#: Characters of chunks that become one, so that a limit of tokens is seen in time.
_MOST_JOINED = 512


@dataclass(slots=True)
class _Call:
    """A call that is being received."""

    #: As the endpoint counts; None when it does not.
    endpoint_index: object
    endpoint_id: str
    #: Where it stands among the calls of the answer: by the endpoint's index, else as it came.
    place: int
    name: str = ""
    #: Its index in what we tell; None until that has begun.
    index: int | None = None
    #: Arguments that came before that.
    waiting: str = ""
    arguments: SurrogatePairs = field(default_factory=SurrogatePairs)


class Answer:
    """One answer, fed with its chunks in order.

    Args:
        think_tags: whether a ``<think>`` block at the beginning is reasoning.
    """

    def __init__(self, *, think_tags: bool = True) -> None:
        self._calls: list[_Call] = []
        self._told = 0
        #: The place of the call that can be told next.
        self._next_place = 0
        self._content = SurrogatePairs()
        self._think_tags = ThinkTags(enabled=think_tags)
        self._reasoning = SurrogatePairs()
        self._refusal = SurrogatePairs()
        self._has_text = False
        self._has_reasoning = False
        self._finish: str | None = None
        self._done = False
        self._usage: Usage | None = None
        self._usage_came_last = False

    @property
    def is_complete(self) -> bool:
        """Whether the endpoint said that the answer is at its end.

        The usage comes behind everything else, so a last chunk with nothing but usage says it, too.
        """
        return self._finish is not None or self._usage_came_last or self._done

    def read(self, chunk: object) -> Iterator[ModelEvent]:
        """What this chunk adds; raises BrokenAnswer."""
        if (words := _words_alone(chunk)) is not None:
            self._usage_came_last = False
            return self._said(self._think_tags.read(self._content.read(words)))
        return self._read(chunk)

    def _read(self, chunk: object) -> Iterator[ModelEvent]:
        if not isinstance(chunk, dict):
            raise BrokenAnswer("sent an event that is not an object. Its answer is lost; try again.")
        choices = chunk.get("choices")
        usage = _usage_in(chunk)
        if usage is not None:
            self._usage = _usage(usage)
        self._usage_came_last = usage is not None and not choices
        if not choices:
            return
        choice = choices[0] if isinstance(choices, list) else None
        delta = (choice.get("delta") or choice.get("message")) if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(delta, dict | None):
            raise BrokenAnswer("sent an event that is not a chat completion chunk. Its answer is lost; try again.")
        if delta:
            yield from self._read_delta(delta)
        if isinstance(finish := choice.get("finish_reason"), str) and finish:
            self._finish = finish

    def done(self) -> None:
        """Note that the endpoint sent ``[DONE]``."""
        self._done = True

    def end(self) -> Iterator[ModelEvent]:
        """What is left, usage and Finish, once all chunks are read; raises BrokenAnswer when it is not complete."""
        yield from self._said(self._think_tags.end())
        if not self.is_complete or (self._finish is None and not self._calls and not self._has_text):
            raise BrokenAnswer("ended its answer in the middle. Try again.", transient=True)
        reason = self._reason()
        if reason is not FinishReason.LENGTH and any(not call.name for call in self._calls):
            raise BrokenAnswer("made a call without saying of which function. Try again.")
        yield from self._tell_calls(all_of_them=True)
        if reason is FinishReason.STOP and self._has_reasoning and not self._has_text:
            raise BrokenAnswer("sent its reasoning and no answer. Try again.", transient=True)
        if self._usage is not None:
            yield ModelUsage(self._usage)
        yield Finish(reason)

    def _reason(self) -> FinishReason:
        match self._finish:
            case "length" | "max_tokens" | "model_length":
                return FinishReason.LENGTH
            case "content_filter":
                return FinishReason.CONTENT_FILTER
            case "error":
                raise BrokenAnswer("failed in the middle of its answer. Try again.", transient=True)
            case "tool_calls" | "function_call" if not self._calls and not self._has_text:
                raise BrokenAnswer("announced a call but made none. Try again.", transient=True)
            case _:
                return FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP

    # --- words --------------------------------------------------------------------------------------------------------

    def _read_delta(self, delta: Mapping[str, object]) -> Iterator[ModelEvent]:
        thought = self._reasoning.read(_reasoning(delta))
        if thought:
            self._has_reasoning = True
            yield ReasoningDelta(thought)
        if text := self._content.read(_text(delta.get("content"))):
            yield from self._said(self._think_tags.read(text))
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and (text := self._refusal.read(refusal)):
            self._has_text = True
            yield RefusalDelta(text)
        pieces = delta.get("tool_calls")
        if not pieces and isinstance(legacy := delta.get("function_call"), dict):
            pieces = [{"index": 0, "function": legacy}]
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                yield from self._read_call(piece)

    def _said(self, parts: tuple[str, str]) -> Iterator[ModelEvent]:
        reasoning, text = parts
        if reasoning:
            self._has_reasoning = True
            yield ReasoningDelta(reasoning)
        if text:
            self._has_text = True
            yield TextDelta(text)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _read_call(self, piece: Mapping[str, object]) -> Iterator[ModelEvent]:
        function = piece.get("function")
        if not isinstance(function, dict):
            function = {}
        name = function.get("name")
        name = SurrogatePairs().read(name) if isinstance(name, str) else ""
        call = self._call_of(piece, name)
        call.name = call.name or name
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
        text = call.arguments.read(text)
        if call.index is None:
            call.waiting += text
            yield from self._tell_calls()
        elif text:
            yield ToolCallDelta(call.index, arguments_json=text)

    def _call_of(self, piece: Mapping[str, object], name: str) -> _Call:
        """The call this piece belongs to. Another id begins another call, even where the index stays the same."""
        index, given = piece.get("index"), piece.get("id")
        endpoint_id = given if isinstance(given, str) else ""
        for call in reversed(self._calls):
            same_id = not endpoint_id or not call.endpoint_id or endpoint_id == call.endpoint_id
            # Without any index, a name begins a new call, and what has none belongs to the last one.
            same_place = index == call.endpoint_index if index is not None else bool(endpoint_id) or not name
            if same_id and same_place:
                call.endpoint_id = call.endpoint_id or endpoint_id
                return call
        call = _Call(index, endpoint_id, self._place(index))
        self._calls.append(call)
        return call

    def _place(self, index: object) -> int:
        """Where a new call stands. Those without an index, or with one that is taken, come behind all before them."""
        behind = max((call.place for call in self._calls), default=-1) + 1
        if not isinstance(index, int) or any(call.endpoint_index == index for call in self._calls):
            return behind if self._calls else self._next_place
        if not self._calls and self._has_text:
            # Some count the text as a block of the answer, and its calls from 1.
            self._next_place = index
        return index

    def _tell_calls(self, *, all_of_them: bool = False) -> Iterator[ModelEvent]:
        """Begin to tell the calls whose turn it is: named, and none before them missing, until the answer is over."""
        for call in sorted(self._calls, key=lambda call: call.place):
            if call.index is not None:
                continue
            if not call.name or not (all_of_them or call.place <= self._next_place):
                return
            call.index = self._told
            self._told += 1
            self._next_place = call.place + 1
            yield ToolCallDelta(call.index, call.endpoint_id or call_id(), call.name, call.waiting)


def joined(chunks: Sequence[object]) -> list[object]:
    """The same with neighbours that hold nothing but text in one."""
    result: list[object] = []
    words: list[str] = []
    size = 0
    for chunk in chunks:
        if (more := _words_alone(chunk)) is None or size > _MOST_JOINED:
            result += _whole(words)
            words, size = [], 0
        if more is None:
            result.append(chunk)
        else:
            words.append(more)
            size += len(more)
    return result + _whole(words)


def _whole(words: Sequence[str]) -> list[object]:
    return [{"choices": [{"delta": {"content": "".join(words)}}]}] if words else []


def _words_alone(chunk: object) -> str | None:
    """The text of a chunk that holds nothing else, as nearly all do; None for every other one."""
    if not isinstance(chunk, dict) or chunk.get("usage") or chunk.get("x_groq"):
        return None
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or choice.get("finish_reason"):
        return None
    delta = choice.get("delta")
    if not isinstance(delta, dict) or not isinstance(words := delta.get("content"), str):
        return None
    if len(delta) > 1 and any(delta[name] for name in delta.keys() - {"content", "role"}):
        return None
    return words


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _reasoning(delta: Mapping[str, object]) -> str:
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := delta.get(name), str) and text:
            return text
    content = delta.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "".join(_text(part.get("thinking")) for part in parts)


def _usage_in(chunk: Mapping[str, object]) -> Mapping[str, object] | None:
    groq = chunk.get("x_groq")
    for usage in (chunk.get("usage"), groq.get("usage") if isinstance(groq, dict) else None):
        if isinstance(usage, dict):
            return usage
    return None


def _usage(counted: Mapping[str, object]) -> Usage | None:
    """What the endpoint counted; None when that is nothing, which no prompt is."""
    prompt, completion = _count(counted, "prompt_tokens"), _count(counted, "completion_tokens")
    if not prompt:
        return None
    reasoning = _count(_details(counted, "completion_tokens_details"), "reasoning_tokens")
    if reasoning and _count(counted, "total_tokens") == prompt + completion + reasoning:
        # xAI counts them beside the completion; everyone else, as a part of it.
        completion += reasoning
    cached = _count(_details(counted, "prompt_tokens_details"), "cached_tokens")
    return Usage(
        prompt,
        completion,
        cached_prompt_tokens=min(cached or _count(counted, "prompt_cache_hit_tokens"), prompt),
        reasoning_tokens=min(reasoning, completion),
    )


def _details(counted: Mapping[str, object], name: str) -> Mapping[str, object]:
    return details if isinstance(details := counted.get(name), dict) else {}


def _count(counted: Mapping[str, object], name: str) -> int:
    value = counted.get(name)
    return value if isinstance(value, int) and value > 0 else 0
