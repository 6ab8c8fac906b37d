"""One model call: its stream becomes a message, a step of calls, or one after the other."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from .. import ids
from ..domain.events import CodeInterpreterCallDelta, FunctionCallDelta
from ..domain.runs import Usage
from .models import code_interpreter
from .models.protocol import Finish, FinishReason, ModelEvent, ModelUsage, RefusalDelta, TextDelta, ToolCallDelta
from .writer import Writer


@dataclass(slots=True)
class AskedCall:
    """A call as the model asked for it."""

    id: str
    name: str
    arguments_json: str = ""
    #: How much of the code its readers have seen.
    shown: int = 0

    @property
    def is_code(self) -> bool:
        return self.name == code_interpreter.NAME


class Turn:
    """Consumes one model call. Afterwards the message or the step it ended with is still open in the writer."""

    def __init__(
        self, writer: Writer, image_ids: tuple[str, ...], complete_message: Callable[[Usage | None], Awaitable[None]]
    ) -> None:
        self._writer = writer
        self._image_ids = image_ids
        self._complete_message = complete_message
        self.calls: list[AskedCall] = []
        #: Words that came behind calls. They wait until those are answered: a message has no place within a step.
        self.late_text = ""
        self.finish: FinishReason | None = None

    async def consume(self, events: AsyncIterator[ModelEvent]) -> None:
        """Write down the whole answer as it comes."""
        async for event in events:
            match event:
                case TextDelta() | RefusalDelta() if self.calls:
                    self.late_text += event.text
                case TextDelta():
                    await self._open_message()
                    await self._writer.add_text(event.text)
                case RefusalDelta():
                    await self._open_message()
                    await self._writer.add_refusal(event.text)
                case ToolCallDelta():
                    await self._add_call(event)
                case ModelUsage():
                    pass  # counted by `budgets`
                case Finish():
                    self.finish = event.reason

    async def _open_message(self) -> None:
        if self._writer.message is None:
            await self._writer.open_message(self._image_ids)

    async def _add_call(self, delta: ToolCallDelta) -> None:
        if self._writer.message is not None:
            await self._complete_message(None)
        if self._writer.calls is None:
            await self._writer.open_calls()
        if delta.index == len(self.calls):
            # Ids of our own: endpoints repeat theirs, or send none, and clients look calls up by id.
            call = AskedCall(ids.call_id(), delta.name or "")
            self.calls.append(call)
            if call.is_code:
                await self._writer.add_call(CodeInterpreterCallDelta(delta.index, call.id))
            else:
                await self._writer.add_call(FunctionCallDelta(delta.index, call.id, name=call.name))
        call = self.calls[delta.index]
        call.arguments_json += delta.arguments_json
        if call.is_code:
            await self.show_code(delta.index, code_interpreter.partial_code(call.arguments_json))
        elif delta.arguments_json:
            await self._writer.add_call(FunctionCallDelta(delta.index, call.id, arguments_json=delta.arguments_json))

    async def show_code(self, index: int, code: str) -> None:
        """Stream what of a call's code was not shown yet."""
        call = self.calls[index]
        if len(code) > call.shown:
            more = code[call.shown :]
            call.shown = len(code)
            await self._writer.add_call(CodeInterpreterCallDelta(index, call.id, input=more))
