"""The table of a run's states: every pair of statuses, and what each change brings with it."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from afarensis_server.domain.events import EventType
from afarensis_server.domain.runs import (
    FunctionCall,
    MessageCreation,
    RequiredAction,
    Run,
    RunError,
    RunErrorCode,
    RunStatus,
    RunStep,
    StepStatus,
    Usage,
)
from afarensis_server.domain.threads import (
    Message,
    MessageIncompleteReason,
    MessageRole,
    MessageStatus,
    TextContent,
)
from afarensis_server.runs.states import IllegalTransition, advance, advance_step, complete_message, cut_message

TIME = datetime(2026, 1, 1, tzinfo=UTC)
LATER = TIME + timedelta(seconds=5)

#: From `docs`: what a client may see one after the other.
ALLOWED = {
    "queued": "in_progress cancelling failed expired",
    "in_progress": "requires_action cancelling completed failed incomplete expired",
    "requires_action": "queued cancelling expired",
    "cancelling": "cancelled",
    "cancelled": "",
    "failed": "",
    "completed": "",
    "incomplete": "",
    "expired": "",
}
#: The time that a status sets.
TIMES = {
    "in_progress": "start_time",
    "cancelled": "cancel_time",
    "failed": "fail_time",
    "completed": "complete_time",
    "incomplete": "incomplete_time",
    "expired": "expired_time",
}
ALL_TIMES = {field.name for field in fields(Run) if field.name.endswith("_time")} - {"create_time", "expire_time"}
PAIRS = [(before, after) for before in RunStatus for after in RunStatus]


def run_in(status: RunStatus, **more: Any) -> Run:
    return Run("run_1", "default", "thread_1", "asst_1", TIME, status, "m", expire_time=LATER, **more)


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=[f"{before}-{after}" for before, after in PAIRS])
def test_run_goes_where_it_may_and_nowhere_else(before: RunStatus, after: RunStatus) -> None:
    run = run_in(before)
    if after not in ALLOWED[before].split():
        with pytest.raises(IllegalTransition) as refused:
            advance(run, after, LATER)
        assert refused.value.current is before
        return
    moved, told = advance(run, after, LATER)
    assert moved.status is after
    assert told.type is EventType(f"thread.run.{after}")
    assert told.payload == moved
    assert {name for name in ALL_TIMES if getattr(moved, name) is not None} == set(filter(None, [TIMES.get(after)]))
    if after in TIMES:
        assert getattr(moved, TIMES[after]) == LATER
    # The time of its end is shown while it is ahead, its usage once it is over.
    assert (moved.expire_time, moved.usage) == ((None, Usage()) if after.is_terminal else (LATER, None))


def test_start_is_told_anew_when_a_run_goes_on() -> None:
    run = run_in(RunStatus.QUEUED, start_time=TIME)
    assert advance(run, RunStatus.IN_PROGRESS, LATER)[0].start_time == LATER


@pytest.mark.parametrize("after", [RunStatus.QUEUED, RunStatus.CANCELLING, RunStatus.EXPIRED])
def test_run_that_goes_on_or_ends_asks_for_nothing_any_more(after: RunStatus) -> None:
    waiting = run_in(RunStatus.REQUIRES_ACTION, required_action=RequiredAction((FunctionCall("call_1", "f", "{}"),)))
    assert advance(waiting, after, LATER)[0].required_action is None


STEP_TIMES = {
    StepStatus.COMPLETED: "complete_time",
    StepStatus.FAILED: "fail_time",
    StepStatus.CANCELLED: "cancel_time",
    StepStatus.EXPIRED: "expired_time",
}


@pytest.mark.parametrize("end", sorted(set(StepStatus) - {StepStatus.IN_PROGRESS}))
def test_step_ends_with_its_time_and_its_event(end: StepStatus) -> None:
    details = MessageCreation("msg_1")
    step = RunStep("step_1", "default", "run_1", "thread_1", "asst_1", TIME, StepStatus.IN_PROGRESS, details)
    error = RunError(RunErrorCode.SERVER_ERROR, "m") if end is StepStatus.FAILED else None
    ended, told = advance_step(step, end, LATER, details, error=error, usage=Usage(1, 2))
    assert ended == replace(
        step,
        status=end,
        last_error=error,
        usage=Usage(1, 2),
        **{STEP_TIMES[end]: LATER},  # type: ignore[arg-type]
    )
    assert (told.type, told.payload) == (EventType(f"thread.run.step.{end}"), ended)


def test_message_ends_with_its_time_and_its_event() -> None:
    message = Message("msg_1", "default", "thread_1", TIME, MessageRole.ASSISTANT, MessageStatus.IN_PROGRESS, ())
    content = (TextContent("so far"),)
    whole, told = complete_message(message, content, LATER)
    assert whole == replace(message, status=MessageStatus.COMPLETED, content=content, complete_time=LATER)
    assert (told.type, told.payload) == (EventType.MESSAGE_COMPLETED, whole)
    for reason in MessageIncompleteReason:
        cut, told = cut_message(message, content, LATER, reason)
        assert cut == replace(
            message, status=MessageStatus.INCOMPLETE, content=content, incomplete_time=LATER, incomplete_reason=reason
        )
        assert (told.type, told.payload) == (EventType.MESSAGE_INCOMPLETE, cut)
