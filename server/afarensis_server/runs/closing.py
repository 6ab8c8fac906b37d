"""Ends a run together with all of it that is still open, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from ..clock import now
from ..domain.events import EventDraft, MessageDelta, RunEvent, RunStepDelta
from ..domain.runs import (
    MessageCreation,
    Run,
    RunError,
    RunIncompleteReason,
    RunStatus,
    RunStep,
    StepDetails,
    StepStatus,
    Usage,
)
from ..domain.threads import Message, MessageContent, MessageIncompleteReason, MessageStatus
from ..sandbox.driver import DATA_DIRECTORY
from ..store import messages, queue, steps, thread_files
from ..store.writer import Transaction
from .budgets import used_so_far
from .citations import Made, additions_to, finish, made_by
from .drafts import CallsDraft, MessageDraft
from .moves import end_message, store_move, store_step
from .states import advance, advance_step, cut_message

_STEP_ENDS = {
    RunStatus.CANCELLED: StepStatus.CANCELLED,
    RunStatus.EXPIRED: StepStatus.EXPIRED,
    RunStatus.FAILED: StepStatus.FAILED,
    # The answer is there as far as the limit let it come; nothing about the step itself failed.
    RunStatus.INCOMPLETE: StepStatus.COMPLETED,
}

_MESSAGE_ENDS = {
    RunStatus.CANCELLED: MessageIncompleteReason.RUN_CANCELLED,
    RunStatus.EXPIRED: MessageIncompleteReason.RUN_EXPIRED,
    RunStatus.FAILED: MessageIncompleteReason.RUN_FAILED,
}


@dataclass(frozen=True, slots=True)
class Unfinished:
    """How far open steps and messages have come, by id; what is not named here is as its row says."""

    details: Mapping[str, StepDetails] = field(default_factory=dict)
    content: Mapping[str, tuple[MessageContent, ...]] = field(default_factory=dict)
    #: What the last model call took, where no step tells of it yet.
    usage: Usage = Usage()


def unfinished_from(events: list[RunEvent]) -> Unfinished:
    """How far everything had come by the events that are stored."""
    calls: dict[str, CallsDraft] = {}
    contents: dict[str, MessageDraft] = {}
    for event in events:
        match event.payload:
            case RunStepDelta() as delta:
                calls.setdefault(delta.step_id, CallsDraft()).apply(delta)
            case MessageDelta() as delta:
                contents.setdefault(delta.message_id, MessageDraft()).apply(delta)
    return Unfinished(
        {step_id: draft.details() for step_id, draft in calls.items()},
        {message_id: draft.content() for message_id, draft in contents.items()},
    )


def close_run(
    tx: Transaction,
    events: list[EventDraft],
    run: Run,
    status: RunStatus,
    *,
    unfinished: Unfinished,
    error: RunError | None = None,
    incomplete_reason: RunIncompleteReason | None = None,
) -> Run:
    """End the run in a terminal status, with its open steps and messages, and take it off the queue.

    ``run`` is the row as read in this transaction. Raises IllegalTransition, before anything is changed.
    """
    run_steps = steps.list_of_run(tx.connection, run.project, run.id)
    closed, told = advance(
        run,
        status,
        now(),
        last_error=error,
        incomplete_reason=incomplete_reason,
        usage=used_so_far(run_steps) + unfinished.usage,
    )
    store_move(tx, run, closed)
    cut_reason = _MESSAGE_ENDS.get(status)
    if incomplete_reason is not None:
        is_filtered = incomplete_reason is RunIncompleteReason.CONTENT_FILTER
        cut_reason = MessageIncompleteReason.CONTENT_FILTER if is_filtered else MessageIncompleteReason.MAX_TOKENS
    open_steps = [step for step in run_steps if step.status is StepStatus.IN_PROGRESS]
    if open_steps and unfinished.usage != Usage():
        open_steps[-1] = replace(open_steps[-1], usage=unfinished.usage)
    for step in open_steps:
        assert cut_reason is not None, "a completed run has nothing open"
        close_step(tx, events, run_steps, step, _STEP_ENDS[status], cut_reason, unfinished, error)
    queue.release(tx.connection, run.id)
    events.append(told)
    return closed


def close_step(
    tx: Transaction,
    events: list[EventDraft],
    run_steps: Sequence[RunStep],
    step: RunStep,
    status: StepStatus,
    cut_reason: MessageIncompleteReason,
    unfinished: Unfinished,
    error: RunError | None,
) -> None:
    """End an open step, one of the ``run_steps``, and the message it was writing, as far as they had come."""
    moment = now()
    if isinstance(step.details, MessageCreation):
        message = messages.get(tx.connection, step.project, step.details.message_id)
        if message is not None and message.status is MessageStatus.IN_PROGRESS:
            content = unfinished.content.get(message.id, message.content)
            _cut_message(tx, events, replace(message, content=content), made_by(run_steps, step.id), cut_reason)
    details = unfinished.details.get(step.id, step.details)
    closed, step_told = advance_step(step, status, moment, details, error=error, usage=step.usage)
    store_step(tx, closed)
    events.append(step_told)


def kept_paths(connection: Connection, project: str, thread_id: str) -> dict[str, str]:
    """File ids by absolute path of what earlier sessions of a thread left."""
    kept = thread_files.list_of_thread(connection, project, thread_id)
    return {f"{DATA_DIRECTORY}/{file.path}": file.file_id for file in kept if file.file_id is not None}


def _cut_message(
    tx: Transaction, events: list[EventDraft], message: Message, made: Made, reason: MessageIncompleteReason
) -> None:
    """End a message that will not come to its end, with all that was made for it."""
    citable = kept_paths(tx.connection, message.project, message.thread_id)
    finished = finish(message.content, made, citable)
    attachments = (*message.attachments, *finished.attachments)
    cut, told = cut_message(message, finished.content, now(), reason, attachments=attachments)
    end_message(tx, cut)
    events += [*additions_to(message.id, finished), told]
