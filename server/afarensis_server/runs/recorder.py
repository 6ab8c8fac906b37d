"""Writes down what happens in one run."""

from ..domain.events import EventDraft, EventType, MessageDelta, RunEvent, RunStepDelta
from ..events.kinds import RunLog
from ..events.recorder import MERGE_LIMIT, Recorder
from ..store import queue
from ..store.database import Database
from ..store.queue import Lease
from ..store.writer import Transaction
from .drafts import merge_message_deltas, merge_step_deltas


class LeaseLost(Exception):
    """A worker wanted to write about a run that is no longer its own. Nothing of it was written."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"the lease of {run_id} was lost: the run is over, gone, or another worker's")


class RunRecorder(Recorder[EventDraft, RunEvent]):
    """Writes a run's events.

    With a worker's lease it is the only writer, and raises LeaseLost, in the transaction that would have written, from
    when the lease is lost. Without one it is for a run that nobody works on, which its caller has to see to.
    """

    def __init__(self, database: Database, log: RunLog, project: str, run_id: str, lease: Lease | None = None) -> None:
        def check(tx: Transaction) -> None:
            if lease is not None and not queue.holds(tx.connection, lease):
                raise LeaseLost(run_id)

        super().__init__(database, log, project, run_id, merge, guard=check)


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
