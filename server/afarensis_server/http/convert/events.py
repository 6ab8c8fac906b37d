"""The events of a run as the wire has them, and the deltas they carry.

Clients of the Assistants API add up deltas field by field: texts are joined and numbers are added. So an id, a name or
a place of an annotation is sent once, and every further delta of the same thing has nothing but what is new.
"""

from dataclasses import dataclass, field

from ...domain.events import (
    CodeInterpreterCallDelta,
    FunctionCallDelta,
    MessageContentDelta,
    MessageDelta,
    OutputDelta,
    RunEvent,
    RunStepDelta,
    ToolCallDelta,
)
from ...domain.runs import Run, RunStep
from ...domain.threads import Message, TextContent, Thread
from .runs import error_output, output_json, run_json, step_json
from .threads import annotation_json, content_json, message_json, thread_json
from .values import Json, Shape


@dataclass(slots=True)
class _Call:
    """What clients know of a call of the code interpreter."""

    #: The place on the wire of each output that has one there.
    places: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def place(self, index: int) -> int:
        if index not in self.places:
            self.places[index] = self.count
            self.count += 1
        return self.places[index]


class EventWriter:
    """Writes the events of one run. It has to see all of them, from the first on, also those that no one is sent."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._texts: set[tuple[str, int]] = set()
        self._calls: dict[tuple[str, int], _Call] = {}

    def write(self, event: RunEvent) -> list[Json]:
        """The data of an event, which is more than one where a call begins; nothing where the wire has no word for it.

        Handlers of the SDKs get a call's first delta as its beginning, and its text from those behind it.
        """
        match event.payload:
            case Thread() as thread:
                return [thread_json(thread, self._shape)]
            case Run() as run:
                return [run_json(run, self._shape)]
            case RunStep() as step:
                return [step_json(step)]
            case Message() as message:
                return [message_json(message, self._shape)]
            case MessageDelta() as delta:
                content = [self._content(delta.message_id, part) for part in delta.content]
                return [{"id": delta.message_id, "object": "thread.message.delta", "delta": {"content": content}}]
            case RunStepDelta() as delta:
                written = (one for call in delta.calls for one in self._call(delta.step_id, call))
                return [_step_delta(delta.step_id, call) for call in written]

    def _content(self, message_id: str, delta: MessageContentDelta) -> Json:
        if not isinstance(delta.content, TextContent):
            return {"index": delta.index, **content_json(delta.content)}
        text: Json = {}
        if delta.content.value:
            text["value"] = delta.content.value
        if delta.content.annotations:
            text["annotations"] = [
                {"index": index, **annotation_json(annotation)}
                for index, annotation in enumerate(delta.content.annotations)
            ]
        if (message_id, delta.index) not in self._texts:
            self._texts.add((message_id, delta.index))
            text = {"value": "", "annotations": [], **text}
        return {"index": delta.index, "type": "text", "text": text}

    def _call(self, step_id: str, delta: ToolCallDelta) -> list[Json]:
        known = self._calls.get((step_id, delta.index))
        call = self._calls[step_id, delta.index] = known or _Call()
        body = self._code(call, delta) if isinstance(delta, CodeInterpreterCallDelta) else _function(delta)
        place: Json = {"index": delta.index, "type": delta.type}
        begun: list[Json] = [] if known is not None else [{**place, "id": delta.id, delta.type: _blank(delta)}]
        return [*begun, {**place, delta.type: body}] if body else begun

    def _code(self, call: _Call, delta: CodeInterpreterCallDelta) -> Json:
        body: Json = {}
        if delta.input:
            body["input"] = delta.input
        outputs = [output for item in delta.outputs if (output := _output(call, item)) is not None]
        if (error := error_output(delta.result)) is not None:
            outputs.append({"index": call.count, **error})
            call.count += 1
        if outputs:
            body["outputs"] = outputs
        return body


def _step_delta(step_id: str, call: Json) -> Json:
    details: Json = {"type": "tool_calls", "tool_calls": [call]}
    return {"id": step_id, "object": "thread.run.step.delta", "delta": {"step_details": details}}


def _blank(delta: ToolCallDelta) -> Json:
    match delta:
        case CodeInterpreterCallDelta():
            return {"input": "", "outputs": []}
        case FunctionCallDelta():
            return {"name": delta.name or "", "arguments": "", "output": None}


def _output(call: _Call, delta: OutputDelta) -> Json | None:
    output = output_json(delta.item)
    return None if output is None else {"index": call.place(delta.index), **output}


def _function(delta: FunctionCallDelta) -> Json:
    return {"arguments": delta.arguments_json} if delta.arguments_json else {}
