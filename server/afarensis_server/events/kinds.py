"""What the logs of runs hold, and what those of executions."""

from datetime import datetime
from enum import StrEnum

from ..domain.events import EventDraft, EventPayload, EventType, MessageDelta, RunEvent, RunStepDelta
from ..domain.executions import (
    DisplayItem,
    ExecutionEvent,
    ExecutionEventType,
    ExecutionResult,
    FileItem,
    LoggedExecutionEvent,
    OutputItem,
    Started,
)
from ..domain.runs import Run, RunStep
from ..domain.threads import Message, Thread
from ..errors import ExecutionNotFound, RunNotFound
from ..store import tables
from ..store.database import Database
from ..store.types import Codec
from .log import EventKind, EventLog

# --- runs -------------------------------------------------------------------------------------------------------------


def _codec_of(event_type: EventType) -> Codec[EventPayload]:
    match event_type:
        case EventType.THREAD_CREATED:
            return _THREAD
        case EventType.STEP_DELTA:
            return _STEP_DELTA
        case EventType.MESSAGE_DELTA:
            return _MESSAGE_DELTA
    if event_type.startswith("thread.message."):
        return _MESSAGE
    return _STEP if event_type.startswith("thread.run.step.") else _RUN


_THREAD, _RUN, _STEP, _STEP_DELTA, _MESSAGE, _MESSAGE_DELTA = (
    Codec[EventPayload](payload) for payload in (Thread, Run, RunStep, RunStepDelta, Message, MessageDelta)
)
_RUN_CODECS = {event_type: _codec_of(event_type) for event_type in EventType}


def _encode_run_event(draft: EventDraft) -> tuple[StrEnum, str]:
    return draft.type, _RUN_CODECS[draft.type].encode(draft.payload)


def _decode_run_event(event_type: StrEnum, payload: str) -> EventDraft:
    known = EventType(event_type)
    return EventDraft(known, _RUN_CODECS[known].decode(payload))


def _place_run_event(run_id: str, sequence: int, time: datetime, draft: EventDraft) -> RunEvent:
    return RunEvent(run_id, sequence, time, draft.type, draft.payload)


class RunLog(EventLog[EventDraft, RunEvent]):
    """The logs of all runs."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            EventKind(
                logs=tables.event_logs,
                events=tables.events,
                owner="run_id",
                encode=_encode_run_event,
                decode=_decode_run_event,
                place=_place_run_event,
                ends=frozenset(event_type for event_type in EventType if event_type.ends_run),
                not_found=RunNotFound,
            ),
        )


# --- executions -------------------------------------------------------------------------------------------------------

_EXECUTION_TYPES: dict[type[ExecutionEvent], ExecutionEventType] = {
    Started: ExecutionEventType.STARTED,
    OutputItem: ExecutionEventType.OUTPUT,
    DisplayItem: ExecutionEventType.DISPLAY,
    FileItem: ExecutionEventType.FILE,
    ExecutionResult: ExecutionEventType.RESULT,
}
_EXECUTION_CODECS = {event_type: Codec[ExecutionEvent](payload) for payload, event_type in _EXECUTION_TYPES.items()}


def _encode_execution_event(event: ExecutionEvent) -> tuple[StrEnum, str]:
    event_type = _EXECUTION_TYPES[type(event)]
    return event_type, _EXECUTION_CODECS[event_type].encode(event)


def _decode_execution_event(event_type: StrEnum, payload: str) -> ExecutionEvent:
    return _EXECUTION_CODECS[ExecutionEventType(event_type)].decode(payload)


def _place_execution_event(
    execution_id: str, sequence: int, time: datetime, event: ExecutionEvent
) -> LoggedExecutionEvent:
    return LoggedExecutionEvent(execution_id, sequence, time, _EXECUTION_TYPES[type(event)], event)


class ExecutionLog(EventLog[ExecutionEvent, LoggedExecutionEvent]):
    """The logs of all executions that clients asked for. Those of runs are in the logs of the runs."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            EventKind(
                logs=tables.execution_logs,
                events=tables.execution_events,
                owner="execution_id",
                encode=_encode_execution_event,
                decode=_decode_execution_event,
                place=_place_execution_event,
                ends=frozenset({ExecutionEventType.RESULT}),
                not_found=ExecutionNotFound,
            ),
        )
