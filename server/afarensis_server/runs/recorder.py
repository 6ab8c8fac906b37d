"""Writes down what happens in one run."""

from ..domain.events import EventDraft, EventType, MessageDelta, RunEvent, RunStepDelta
from ..events.kinds import RunLog
from ..events.recorder import MERGE_LIMIT, Recorder
from ..store.database import Database
from .drafts import merge_message_deltas, merge_step_deltas


class RunRecorder(Recorder[EventDraft, RunEvent]):
    """The only writer of a run's events while a worker holds the run."""

    def __init__(self, database: Database, log: RunLog, project: str, run_id: str) -> None:
        super().__init__(database, log, project, run_id, merge)


def merge(first: EventDraft, second: EventDraft) -> EventDraft | None:
    """Two events as one, when both only add text to the same place; otherwise None."""
    merged: MessageDelta | RunStepDelta | None
    if isinstance(first.payload, MessageDelta) and isinstance(second.payload, MessageDelta):
        merged = merge_message_deltas(first.payload, second.payload)
        return None if merged is None else EventDraft(EventType.MESSAGE_DELTA, merged)
    if isinstance(first.payload, RunStepDelta) and isinstance(second.payload, RunStepDelta):
        merged = merge_step_deltas(first.payload, second.payload, MERGE_LIMIT)
        return None if merged is None else EventDraft(EventType.STEP_DELTA, merged)
    return None
