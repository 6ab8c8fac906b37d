"""Events of a run, and the deltas they carry."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .executions import ExecutionItem, ExecutionResult
from .runs import Run, RunStep
from .threads import Message, MessageContent, Thread


class EventType(StrEnum):
    """The Assistants API's names."""

    THREAD_CREATED = "thread.created"
    RUN_CREATED = "thread.run.created"
    RUN_QUEUED = "thread.run.queued"
    RUN_IN_PROGRESS = "thread.run.in_progress"
    RUN_REQUIRES_ACTION = "thread.run.requires_action"
    RUN_COMPLETED = "thread.run.completed"
    RUN_INCOMPLETE = "thread.run.incomplete"
    RUN_FAILED = "thread.run.failed"
    RUN_CANCELLING = "thread.run.cancelling"
    RUN_CANCELLED = "thread.run.cancelled"
    RUN_EXPIRED = "thread.run.expired"
    STEP_CREATED = "thread.run.step.created"
    STEP_IN_PROGRESS = "thread.run.step.in_progress"
    STEP_DELTA = "thread.run.step.delta"
    STEP_COMPLETED = "thread.run.step.completed"
    STEP_FAILED = "thread.run.step.failed"
    STEP_CANCELLED = "thread.run.step.cancelled"
    STEP_EXPIRED = "thread.run.step.expired"
    MESSAGE_CREATED = "thread.message.created"
    MESSAGE_IN_PROGRESS = "thread.message.in_progress"
    MESSAGE_DELTA = "thread.message.delta"
    MESSAGE_COMPLETED = "thread.message.completed"
    MESSAGE_INCOMPLETE = "thread.message.incomplete"

    @property
    def ends_run(self) -> bool:
        return self in _ENDS_RUN


_ENDS_RUN = frozenset(
    {
        EventType.RUN_COMPLETED,
        EventType.RUN_INCOMPLETE,
        EventType.RUN_FAILED,
        EventType.RUN_CANCELLED,
        EventType.RUN_EXPIRED,
    }
)


@dataclass(frozen=True, slots=True)
class MessageContentDelta:
    """A new part of a message, or more text for the text part at ``index``."""

    index: int
    content: MessageContent


@dataclass(frozen=True, slots=True)
class MessageDelta:
    message_id: str
    content: tuple[MessageContentDelta, ...]


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """A new output of a call, or more text for the output at ``index`` (same stream)."""

    index: int
    item: ExecutionItem


@dataclass(frozen=True, slots=True)
class CodeInterpreterCallDelta:
    """``index`` is the call's place in its step; ``input`` is appended."""

    index: int
    id: str
    input: str = ""
    outputs: tuple[OutputDelta, ...] = ()
    result: ExecutionResult | None = None
    session_id: str | None = None
    execution_id: str | None = None
    state_lost: bool = False
    type: Literal["code_interpreter"] = "code_interpreter"


@dataclass(frozen=True, slots=True)
class FunctionCallDelta:
    """``arguments_json`` is appended; ``name`` comes with the first delta only."""

    index: int
    id: str
    name: str | None = None
    arguments_json: str = ""
    output: str | None = None
    type: Literal["function"] = "function"


ToolCallDelta = Annotated[CodeInterpreterCallDelta | FunctionCallDelta, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class RunStepDelta:
    step_id: str
    calls: tuple[ToolCallDelta, ...]


EventPayload = Thread | Run | RunStep | RunStepDelta | Message | MessageDelta


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event that has no place in its log yet."""

    type: EventType
    payload: EventPayload


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A stored event. ``sequence`` starts at 1 for each run and has no gaps."""

    run_id: str
    sequence: int
    create_time: datetime
    type: EventType
    payload: EventPayload
