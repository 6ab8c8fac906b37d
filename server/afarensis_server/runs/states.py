"""The states of a run and of its steps: which follows which, and what changes with them.

queued -> in_progress -> completed | failed | incomplete | expired
  ^           |
  |           v
  +--- requires_action            (SubmitToolOutputs)

queued                         -> failed | expired       (its time, or its worker, ended before it began)
requires_action                -> expired
queued | in_progress | requires_action -> cancelling -> cancelled       (CancelRun)

`FOLLOWERS` says so for programs. The database refuses what is not in it, too, by triggers that a migration made from
it; a test compares the two.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from ..domain.events import EventDraft, EventType
from ..domain.runs import Run, RunError, RunStatus, RunStep, StepDetails, StepStatus, Usage
from ..domain.threads import Message, MessageContent, MessageIncompleteReason, MessageStatus

#: What may follow each status of a run; nothing follows those that are not here.
FOLLOWERS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.IN_PROGRESS, RunStatus.CANCELLING, RunStatus.EXPIRED, RunStatus.FAILED}),
    RunStatus.IN_PROGRESS: frozenset(
        {
            RunStatus.REQUIRES_ACTION,
            RunStatus.CANCELLING,
            RunStatus.COMPLETED,
            RunStatus.FAILED,
            RunStatus.INCOMPLETE,
            RunStatus.EXPIRED,
        }
    ),
    RunStatus.REQUIRES_ACTION: frozenset({RunStatus.QUEUED, RunStatus.CANCELLING, RunStatus.EXPIRED}),
    RunStatus.CANCELLING: frozenset({RunStatus.CANCELLED}),
}

_TIME_FIELDS = {
    RunStatus.IN_PROGRESS: "start_time",
    RunStatus.COMPLETED: "complete_time",
    RunStatus.FAILED: "fail_time",
    RunStatus.CANCELLED: "cancel_time",
    RunStatus.INCOMPLETE: "incomplete_time",
    RunStatus.EXPIRED: "expired_time",
}

_STEP_TIME_FIELDS = {
    StepStatus.COMPLETED: "complete_time",
    StepStatus.FAILED: "fail_time",
    StepStatus.CANCELLED: "cancel_time",
    StepStatus.EXPIRED: "expired_time",
}


class IllegalTransition(Exception):
    """A run cannot go from where it is to where it was sent: somebody else moved it first."""

    def __init__(self, current: RunStatus, wanted: RunStatus) -> None:
        super().__init__(f"a run cannot go from {current} to {wanted}")
        self.current = current


class AlreadyOver(Exception):
    """A step or a message was to change that is over, or gone: it stays as it is."""

    def __init__(self, row_id: str) -> None:
        super().__init__(f"{row_id} is over, or gone: it cannot change any more")


def check(run: Run, status: RunStatus) -> None:
    """Raise IllegalTransition where a run cannot go to a status."""
    if status not in FOLLOWERS.get(run.status, frozenset()):
        raise IllegalTransition(run.status, status)


def advance(run: Run, status: RunStatus, now: datetime, **changes: Any) -> tuple[Run, EventDraft]:
    """The run in its next status, with the event that says so. Raises IllegalTransition."""
    check(run, status)
    if (time_field := _TIME_FIELDS.get(status)) is not None:
        changes[time_field] = now
    if status is not RunStatus.REQUIRES_ACTION:
        changes["required_action"] = None
    if status.is_terminal:
        changes["expire_time"] = None
        # The Assistants API gave usage with every terminal run, also when no model was called.
        changes.setdefault("usage", run.usage or Usage())
    advanced = replace(run, status=status, **changes)
    return advanced, EventDraft(EventType(f"thread.run.{status}"), advanced)


def advance_step(
    step: RunStep,
    status: StepStatus,
    now: datetime,
    details: StepDetails,
    *,
    error: RunError | None = None,
    usage: Usage | None = None,
) -> tuple[RunStep, EventDraft]:
    """The step in its final status, with the event that says so."""
    changes: dict[str, Any] = {_STEP_TIME_FIELDS[status]: now}
    advanced = replace(step, status=status, details=details, last_error=error, usage=usage, **changes)
    return advanced, EventDraft(EventType(f"thread.run.step.{status}"), advanced)


def complete_message(
    message: Message, content: tuple[MessageContent, ...], now: datetime, **changes: Any
) -> tuple[Message, EventDraft]:
    """The message as it stands for good, with the event that says so."""
    completed = replace(message, status=MessageStatus.COMPLETED, content=content, complete_time=now, **changes)
    return completed, EventDraft(EventType.MESSAGE_COMPLETED, completed)


def cut_message(
    message: Message,
    content: tuple[MessageContent, ...],
    now: datetime,
    reason: MessageIncompleteReason,
    **changes: Any,
) -> tuple[Message, EventDraft]:
    """The message cut short for a reason, with the event that says so."""
    cut = replace(
        message,
        status=MessageStatus.INCOMPLETE,
        content=content,
        incomplete_time=now,
        incomplete_reason=reason,
        **changes,
    )
    return cut, EventDraft(EventType.MESSAGE_INCOMPLETE, cut)
