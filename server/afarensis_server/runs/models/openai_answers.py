"""Reads the chunks of a streamed chat completion, as endpoints really send them.

Differences that are known and handled: chunks without choices (usage, content filter results); no usage at all; calls
that arrive whole, without an index, all with index 0, or without an id (Ollama, LiteLLM, vLLM); arguments as an object
instead of a string (Ollama); ids repeated, or empty, on later pieces; content as a list of parts (Mistral);
``finish_reason`` stop, function_call or end_turn where calls were made, and reasons of their own.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...domain.runs import Usage
from ...ids import call_id
from .protocol import Finish, FinishReason, ModelEvent, ModelUsage, RefusalDelta, TextDelta, ToolCallDelta


class BrokenAnswer(Exception):
    """The answer cannot be what the model meant. The message goes on after "The model endpoint ..."."""


class _Text:
    """Joins surrogate pairs that an endpoint splits over chunks; half a pair becomes U+FFFD: nothing can store it."""

    def __init__(self) -> None:
        self._half = ""

    def read(self, piece: str) -> str:
        """The next sound piece; empty when it was the first half of a pair."""
        if piece.isascii() and not self._half:
            return piece
        piece = self._half + piece
        self._half = piece[-1] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        whole = piece[: len(piece) - len(self._half)]
        return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@dataclass(slots=True)
class _Call:
    """A call that is being received."""

    index: int
    #: As the endpoint counts; None when it does not.
    endpoint_index: object
    endpoint_id: str
    name: str = ""
    #: Arguments that came before the name.
    waiting: str = ""
    arguments: _Text = field(default_factory=_Text)


class Answer:
    """One answer, fed with its chunks in order."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._content = _Text()
        self._refusal = _Text()
        self._has_text = False
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._usage_came_last = False

    @property
    def is_complete(self) -> bool:
        """Whether the endpoint said that the answer is at its end.

        The usage comes behind everything else, so a last chunk with nothing but usage says it, too.
        """
        return self._finish is not None or self._usage_came_last

    def read(self, chunk: object) -> Iterator[ModelEvent]:
        """What this chunk adds; raises BrokenAnswer."""
        if not isinstance(chunk, dict):
            raise BrokenAnswer("sent an event that is not an object. Its answer is lost; try again.")
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = Usage(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
        choices = chunk.get("choices")
        self._usage_came_last = isinstance(usage, dict) and not choices
        if not choices:
            return
        choice = choices[0] if isinstance(choices, list) else None
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(delta, dict | None):
            raise BrokenAnswer("sent an event that is not a chat completion chunk. Its answer is lost; try again.")
        if delta:
            yield from self._read_delta(delta)
        if isinstance(finish := choice.get("finish_reason"), str) and finish:
            self._finish = finish

    def end(self) -> Iterator[ModelEvent]:
        """Usage and Finish, once all chunks are read; raises BrokenAnswer when the answer is not complete."""
        if not self.is_complete:
            raise BrokenAnswer("ended its answer in the middle. Try again.")
        if any(not call.name for call in self._calls):
            raise BrokenAnswer("made a call without saying of which function. Try again.")
        reason = self._reason()
        if self._usage is not None:
            yield ModelUsage(self._usage)
        yield Finish(reason)

    def _reason(self) -> FinishReason:
        match self._finish:
            case "length" | "max_tokens":
                return FinishReason.LENGTH
            case "content_filter":
                return FinishReason.CONTENT_FILTER
            case "error":
                raise BrokenAnswer("failed in the middle of its answer. Try again.")
            case "tool_calls" | "function_call" if not self._calls and not self._has_text:
                raise BrokenAnswer("announced a call but made none. Try again.")
            case _:
                return FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP

    def _read_delta(self, delta: Mapping[str, object]) -> Iterator[ModelEvent]:
        if text := self._content.read(_text(delta.get("content"))):
            self._has_text = True
            yield TextDelta(text)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and (text := self._refusal.read(refusal)):
            self._has_text = True
            yield RefusalDelta(text)
        pieces = delta.get("tool_calls")
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                yield from self._read_call(piece)

    def _read_call(self, piece: Mapping[str, object]) -> Iterator[ModelEvent]:
        function = piece.get("function")
        if not isinstance(function, dict):
            function = {}
        name = function.get("name")
        name = _Text().read(name) if isinstance(name, str) else ""
        call = self._call_of(piece, name)
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
        text = call.arguments.read(text)
        if call.name:
            if text:
                yield ToolCallDelta(call.index, arguments_json=text)
        elif name:
            call.name = name
            yield ToolCallDelta(call.index, call.endpoint_id or call_id(), name, call.waiting + text)
        else:
            call.waiting += text

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
        call = _Call(len(self._calls), index, endpoint_id)
        self._calls.append(call)
        return call


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(usage: Mapping[str, object], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
