"""Stores what `states` decides, so that nothing that is over changes, and no run is moved from where it is not."""

from typing import Any

from ..clock import now
from ..domain.events import EventDraft
from ..domain.runs import Run, RunStatus, RunStep
from ..domain.threads import Message
from ..store import messages, runs, steps
from ..store.writer import Transaction
from .states import AlreadyOver, IllegalTransition, advance


def move_run(tx: Transaction, events: list[EventDraft], run: Run, status: RunStatus, **changes: Any) -> Run:
    """Take a run, as it was read in this transaction, to its next status, and tell of it.

    Raises IllegalTransition, before anything is changed.
    """
    moved, told = advance(run, status, now(), **changes)
    store_move(tx, run, moved)
    events.append(told)
    return moved


def store_move(tx: Transaction, before: Run, after: Run) -> None:
    """Store a run that `advance` has moved. Raises IllegalTransition when its row is not where it was read."""
    if not runs.move(tx.connection, after, before.status):
        raise IllegalTransition(before.status, after.status)


def store_step(tx: Transaction, step: RunStep) -> None:
    """Store an open step as far as it has come, or as it ends. Raises AlreadyOver."""
    if not steps.update(tx.connection, step):
        raise AlreadyOver(step.id)


def end_message(tx: Transaction, message: Message) -> None:
    """Store the end of an open message. Raises AlreadyOver."""
    if not messages.end(tx.connection, message):
        raise AlreadyOver(message.id)
