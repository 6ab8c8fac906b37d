"""A message or a step while it grows: built from the very deltas that clients see.

The engine feeds these while it works, and recovery feeds them from the stored events after a crash, so that what is
kept of an answer cut short is exactly what its readers saw.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..domain.events import (
    CodeInterpreterCallDelta,
    FunctionCallDelta,
    MessageContentDelta,
    MessageDelta,
    OutputDelta,
    RunStepDelta,
    ToolCallDelta,
)
from ..domain.executions import ExecutionItem, ExecutionResult, OutputItem, continues, merge_outputs
from ..domain.runs import CodeInterpreterCall, FunctionCall, ToolCall, ToolCalls
from ..domain.threads import MessageContent, RefusalContent, TextContent


@dataclass(slots=True)
class _Part:
    """One content part; the text of a text or refusal part grows in ``pieces``."""

    first: MessageContent
    pieces: list[str] = field(default_factory=list)

    def add(self, content: MessageContent) -> None:
        match content:
            case TextContent():
                self.pieces.append(content.value)
                if content.annotations and isinstance(self.first, TextContent):
                    self.first = replace(self.first, annotations=self.first.annotations + content.annotations)
            case RefusalContent():
                self.pieces.append(content.refusal)

    def content(self) -> MessageContent:
        match self.first:
            case TextContent():
                return replace(self.first, value=self.first.value + "".join(self.pieces))
            case RefusalContent():
                return RefusalContent(self.first.refusal + "".join(self.pieces))
            case _:
                return self.first


class MessageDraft:
    """The content of a message that is being written."""

    def __init__(self, content: Iterable[MessageContent] = ()) -> None:
        self._parts = {index: _Part(part) for index, part in enumerate(content)}

    def apply(self, delta: MessageDelta) -> None:
        for change in delta.content:
            if (part := self._parts.get(change.index)) is None:
                self._parts[change.index] = _Part(change.content)
            else:
                part.add(change.content)

    @property
    def next_index(self) -> int:
        return len(self._parts)

    def content(self) -> tuple[MessageContent, ...]:
        return tuple(self._parts[index].content() for index in sorted(self._parts))


@dataclass(slots=True)
class _Output:
    """One output; the text of one stream's output grows in ``pieces``."""

    first: ExecutionItem
    pieces: list[str] = field(default_factory=list)

    def item(self) -> ExecutionItem:
        if isinstance(self.first, OutputItem) and self.pieces:
            return replace(self.first, text=self.first.text + "".join(self.pieces))
        return self.first


class CodeCallDraft:
    """A code interpreter call: its input as the model writes it, then what the code puts out."""

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self._input: list[str] = []
        self._outputs: list[_Output] = []
        self.result: ExecutionResult | None = None
        self.session_id: str | None = None
        self.execution_id: str | None = None
        self.state_lost = False

    @property
    def input(self) -> str:
        return "".join(self._input)

    def place(self, item: ExecutionItem) -> OutputDelta:
        """The delta that adds this item: behind the last output, or continuing it."""
        last = len(self._outputs) - 1
        if last >= 0 and continues(self._outputs[last].first, item):
            return OutputDelta(last, item)
        return OutputDelta(last + 1, item)

    def apply(self, delta: CodeInterpreterCallDelta) -> None:
        if delta.input:
            self._input.append(delta.input)
        for change in delta.outputs:
            if change.index < len(self._outputs):
                if isinstance(change.item, OutputItem):
                    self._outputs[change.index].pieces.append(change.item.text)
            else:
                self._outputs.append(_Output(change.item))
        self.result = delta.result or self.result
        self.session_id = delta.session_id or self.session_id
        self.execution_id = delta.execution_id or self.execution_id
        self.state_lost = delta.state_lost or self.state_lost

    def call(self) -> CodeInterpreterCall:
        return CodeInterpreterCall(
            id=self.id,
            input=self.input,
            outputs=tuple(output.item() for output in self._outputs),
            result=self.result,
            session_id=self.session_id,
            execution_id=self.execution_id,
            state_lost=self.state_lost,
        )


class FunctionCallDraft:
    """A call of the client's function, its arguments as the model writes them."""

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self.name = ""
        self._arguments: list[str] = []
        self.output: str | None = None

    def apply(self, delta: FunctionCallDelta) -> None:
        self.name = delta.name or self.name
        if delta.arguments_json:
            self._arguments.append(delta.arguments_json)
        if delta.output is not None:
            self.output = delta.output

    def call(self) -> FunctionCall:
        return FunctionCall(self.id, self.name, "".join(self._arguments), self.output)


class CallsDraft:
    """The calls of a step, in the order the model made them."""

    def __init__(self) -> None:
        self.calls: list[CodeCallDraft | FunctionCallDraft] = []

    def apply(self, delta: RunStepDelta) -> None:
        for change in delta.calls:
            self._at(change).apply(change)  # type: ignore[arg-type]  # _at returns the draft of the delta's own kind

    def _at(self, delta: ToolCallDelta) -> CodeCallDraft | FunctionCallDraft:
        if delta.index == len(self.calls):
            is_code = isinstance(delta, CodeInterpreterCallDelta)
            self.calls.append(CodeCallDraft(delta.id) if is_code else FunctionCallDraft(delta.id))
        return self.calls[delta.index]

    def details(self) -> ToolCalls:
        calls: list[ToolCall] = [draft.call() for draft in self.calls]
        return ToolCalls(tuple(calls))


def merge_message_deltas(first: MessageDelta, second: MessageDelta) -> MessageDelta | None:
    """Both as one delta when both only add text to the same part of the same message; otherwise None."""
    if first.message_id != second.message_id or len(first.content) != 1 or len(second.content) != 1:
        return None
    (one,), (two,) = first.content, second.content
    if one.index != two.index or not isinstance(one.content, TextContent) or not isinstance(two.content, TextContent):
        return None
    text = TextContent(one.content.value + two.content.value, one.content.annotations + two.content.annotations)
    return MessageDelta(first.message_id, (MessageContentDelta(one.index, text),))


def merge_step_deltas(first: RunStepDelta, second: RunStepDelta, limit: int) -> RunStepDelta | None:
    """Both as one delta when both only add text to the same output or the same input; otherwise None.

    ``limit`` bounds the merged text, in characters.
    """
    if first.step_id != second.step_id or len(first.calls) != 1 or len(second.calls) != 1:
        return None
    (one,), (two,) = first.calls, second.calls
    if one.index != two.index:
        return None
    merged: ToolCallDelta | None = None
    if isinstance(one, CodeInterpreterCallDelta) and isinstance(two, CodeInterpreterCallDelta):
        merged = _merge_code_deltas(one, two, limit)
    elif isinstance(one, FunctionCallDelta) and isinstance(two, FunctionCallDelta) and _adds_arguments(one, two):
        merged = replace(one, arguments_json=one.arguments_json + two.arguments_json)
    return None if merged is None else RunStepDelta(first.step_id, (merged,))


def _adds_arguments(*deltas: FunctionCallDelta) -> bool:
    """The delta that names the function stays alone: readers expect it with empty arguments."""
    return all(delta.name is None and delta.output is None for delta in deltas)


def _merge_code_deltas(
    one: CodeInterpreterCallDelta, two: CodeInterpreterCallDelta, limit: int
) -> CodeInterpreterCallDelta | None:
    plain = not (two.result or two.session_id or two.execution_id or one.result or one.session_id or one.execution_id)
    if not plain:
        return None
    if not one.outputs and not two.outputs:
        return replace(one, input=one.input + two.input)
    if one.input or two.input or len(one.outputs) != 1 or len(two.outputs) != 1:
        return None
    (first,), (second,) = one.outputs, two.outputs
    if first.index != second.index:
        return None
    merged = merge_outputs(first.item, second.item, limit)
    return None if merged is None else replace(one, outputs=(OutputDelta(first.index, merged),))


def outputs_of(calls: Iterable[ToolCall]) -> list[ExecutionItem]:
    """Everything that the code of these calls put out, in order."""
    return [item for call in calls if isinstance(call, CodeInterpreterCall) for item in call.outputs]
