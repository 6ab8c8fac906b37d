"""Writes the messages and steps of one run as they grow, in the Assistants API's order of events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from .. import ids
from ..clock import now
from ..domain.events import (
    CodeInterpreterCallDelta,
    EventDraft,
    EventType,
    MessageContentDelta,
    MessageDelta,
    RunStepDelta,
    ToolCallDelta,
)
from ..domain.executions import ExecutionResult
from ..domain.runs import MessageCreation, Run, RunStep, StepDetails, StepStatus, ToolCalls, Usage
from ..domain.threads import (
    ImageFileContent,
    Message,
    MessageContent,
    MessageRole,
    MessageStatus,
    RefusalContent,
    TextContent,
)
from ..store import messages, steps
from ..store.writer import Transaction
from .citations import Made, additions_to, finish
from .drafts import CallsDraft, CodeCallDraft, MessageDraft
from .moves import end_message, store_step
from .recorder import RunRecorder
from .states import IllegalTransition, advance_step, complete_message


@dataclass(slots=True)
class OpenMessage:
    """A message that the model is writing, and the step it belongs to."""

    message: Message
    step: RunStep
    draft: MessageDraft = field(default_factory=MessageDraft)
    #: Where the text stands among the parts; None before there is any. The same for a refusal.
    text_index: int | None = None
    refusal_index: int | None = None


@dataclass(slots=True)
class OpenCalls:
    """A step whose tool calls are being written or run."""

    step: RunStep
    draft: CallsDraft = field(default_factory=CallsDraft)


@dataclass(frozen=True, slots=True)
class LastWork:
    """What goes with the end of a message: ``check`` raises IllegalTransition if it may not be done, and changes
    nothing."""

    check: Callable[[Transaction], None]
    do: Callable[[Transaction, list[EventDraft]], None]


class Writer:
    """At most one message and one step of calls are open at a time; whoever opens the next has closed the last."""

    def __init__(self, recorder: RunRecorder, run: Run) -> None:
        self._recorder = recorder
        self._run = run
        self.message: OpenMessage | None = None
        self.calls: OpenCalls | None = None

    # --- messages -----------------------------------------------------------------------------------------------------

    async def open_message(self, image_ids: tuple[str, ...] = ()) -> OpenMessage:
        """Begin a message with the images generated so far; its text comes behind them."""
        message = Message(
            id=ids.message_id(),
            project=self._run.project,
            thread_id=self._run.thread_id,
            create_time=now(),
            role=MessageRole.ASSISTANT,
            status=MessageStatus.IN_PROGRESS,
            content=(),
            assistant_id=self._run.assistant_id,
            run_id=self._run.id,
        )
        step = self._new_step(MessageCreation(message.id))

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            messages.insert(tx.connection, message)
            steps.insert(tx.connection, step)
            events += [
                EventDraft(EventType.STEP_CREATED, step),
                EventDraft(EventType.STEP_IN_PROGRESS, step),
                EventDraft(EventType.MESSAGE_CREATED, message),
                EventDraft(EventType.MESSAGE_IN_PROGRESS, message),
            ]

        await self._recorder.record(work)
        self.message = OpenMessage(message, step)
        for image_id in image_ids:
            await self._add_part(self.message, self.message.draft.next_index, ImageFileContent(image_id))
        return self.message

    async def add_text(self, text: str) -> None:
        """Append to the text of the open message."""
        opened = self._opened_message()
        if opened.text_index is None:
            opened.text_index = opened.draft.next_index
        await self._add_part(opened, opened.text_index, TextContent(text))

    def text(self) -> str:
        """The text of the open message, as far as it goes."""
        opened = self._opened_message()
        if opened.text_index is None:
            return ""
        content = opened.draft.content()[opened.text_index]
        assert isinstance(content, TextContent)
        return content.value

    def has_refused(self) -> bool:
        """Whether the open message holds a refusal."""
        return self._opened_message().refusal_index is not None

    async def add_refusal(self, refusal: str) -> None:
        """Append to the refusal of the open message."""
        opened = self._opened_message()
        if opened.refusal_index is None:
            opened.refusal_index = opened.draft.next_index
        await self._add_part(opened, opened.refusal_index, RefusalContent(refusal))

    async def complete_message(
        self, made: Made, citable: Mapping[str, str], usage: Usage | None, last: LastWork | None = None
    ) -> None:
        """End the open message, with all that was made and that its text leads to; see `citations.finish`.

        ``last`` is done in the same transaction, behind it. Raises IllegalTransition when that may not be done; the
        message is as it was then.
        """
        opened = self._opened_message()
        finished = finish(opened.draft.content(), made, citable)
        if not finished.content:
            await self.add_text("")
            finished = finish(opened.draft.content(), made, citable)

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            moment = now()
            # Its metadata may be a client's by now.
            row = messages.get(tx.connection, self._run.project, opened.message.id) or opened.message
            message, told = complete_message(row, finished.content, moment, attachments=finished.attachments)
            step, step_told = advance_step(opened.step, StepStatus.COMPLETED, moment, opened.step.details, usage=usage)
            end_message(tx, message)
            store_step(tx, step)
            events += [*additions_to(message.id, finished), told, step_told]
            if last is not None:
                last.do(tx, events)

        def attempt(tx: Transaction, events: list[EventDraft]) -> IllegalTransition | None:
            # Not raised in here: this goes on when its caller is cancelled, and nobody would be left to take it.
            try:
                if last is not None:
                    last.check(tx)
            except IllegalTransition as error:
                return error
            work(tx, events)
            return None

        if (refused := await self._recorder.record(attempt)) is not None:
            raise refused
        self.message = None

    def _opened_message(self) -> OpenMessage:
        assert self.message is not None, "no message is open"
        return self.message

    async def _add_part(self, opened: OpenMessage, index: int, content: MessageContent) -> None:
        delta = MessageDelta(opened.message.id, (MessageContentDelta(index, content),))
        opened.draft.apply(delta)
        await self._recorder.emit(EventDraft(EventType.MESSAGE_DELTA, delta))

    # --- tool calls ---------------------------------------------------------------------------------------------------

    async def open_calls(self) -> OpenCalls:
        """Begin a step of tool calls; it starts empty."""
        step = self._new_step(ToolCalls())

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            steps.insert(tx.connection, step)
            events += [EventDraft(EventType.STEP_CREATED, step), EventDraft(EventType.STEP_IN_PROGRESS, step)]

        await self._recorder.record(work)
        self.calls = OpenCalls(step)
        return self.calls

    async def add_call(self, delta: ToolCallDelta, *, stored: bool = False) -> None:
        """Extend a call of the open step; ``stored`` also writes the step's row before going on."""
        opened = self._opened_calls()
        change = RunStepDelta(opened.step.id, (delta,))
        opened.draft.apply(change)
        event = EventDraft(EventType.STEP_DELTA, change)
        if not stored:
            await self._recorder.emit(event)
            return
        step = replace(opened.step, details=opened.draft.details())

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            store_step(tx, step)
            events.append(event)

        await self._recorder.record(work)

    def note_result(self, index: int, call_id: str, result: ExecutionResult) -> None:
        """Keep how the code of a call ended, if it had begun and its own result did not come; without an event."""
        opened = self._opened_calls()
        call = opened.draft.calls[index]
        if isinstance(call, CodeCallDraft) and call.execution_id is not None and call.result is None:
            opened.draft.apply(RunStepDelta(opened.step.id, (CodeInterpreterCallDelta(index, call_id, result=result),)))

    async def complete_calls(self, usage: Usage | None, last: ToolCallDelta | None = None) -> None:
        """End the open step: every call has its answer, the ``last`` of them with this."""
        opened = self._opened_calls()
        change = None
        if last is not None:
            change = RunStepDelta(opened.step.id, (last,))
            opened.draft.apply(change)

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            step, told = advance_step(opened.step, StepStatus.COMPLETED, now(), opened.draft.details(), usage=usage)
            store_step(tx, step)
            if change is not None:
                events.append(EventDraft(EventType.STEP_DELTA, change))
            events.append(told)

        await self._recorder.record(work)
        self.calls = None

    def waiting_step(self, usage: Usage | None) -> RunStep:
        """The open step's row as it waits for the client's function outputs."""
        opened = self._opened_calls()
        return replace(opened.step, details=opened.draft.details(), usage=usage)

    def leave_calls(self) -> None:
        """Leave the open step as it waits: its row holds all of it."""
        self.calls = None

    def _opened_calls(self) -> OpenCalls:
        assert self.calls is not None, "no step of calls is open"
        return self.calls

    # --- what is open -------------------------------------------------------------------------------------------------

    def open_details(self) -> dict[str, StepDetails]:
        """The details, as far as they go, of the step of calls that is open; empty when none is."""
        return {} if self.calls is None else {self.calls.step.id: self.calls.draft.details()}

    def open_content(self) -> dict[str, tuple[MessageContent, ...]]:
        """The content, as far as it goes, of the message that is open; empty when none is."""
        return {} if self.message is None else {self.message.message.id: self.message.draft.content()}

    def _new_step(self, details: StepDetails) -> RunStep:
        return RunStep(
            id=ids.step_id(),
            project=self._run.project,
            run_id=self._run.id,
            thread_id=self._run.thread_id,
            assistant_id=self._run.assistant_id,
            create_time=now(),
            status=StepStatus.IN_PROGRESS,
            details=details,
        )
