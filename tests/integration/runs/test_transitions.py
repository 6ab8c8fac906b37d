"""What the database itself lets happen to runs, steps and messages: the second line behind `runs.states`."""

import sqlite3
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.events import EventDraft
from afarensis_server.domain.runs import (
    TERMINAL_RUN_STATUSES,
    FunctionCall,
    RequiredAction,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunStatus,
    RunStep,
    StepStatus,
    ToolCalls,
    Usage,
)
from afarensis_server.domain.threads import Message, MessageRole, MessageStatus, Thread
from afarensis_server.runs.moves import end_message, move_run, store_step
from afarensis_server.runs.states import FOLLOWERS, AlreadyOver, IllegalTransition
from afarensis_server.store import messages, runs, steps, threads
from afarensis_server.store.database import Database, Transaction

from .conftest import PROJECT

ERROR = RunError(RunErrorCode.SERVER_ERROR, "m")


def in_status(status: RunStatus, thread_id: str, moment: datetime) -> Run:
    """A run with what goes with its status."""
    fields: dict[str, Any] = {"expire_time": moment}
    if status in TERMINAL_RUN_STATUSES:
        fields = {"usage": Usage()}
    match status:
        case RunStatus.FAILED:
            fields["last_error"] = ERROR
        case RunStatus.INCOMPLETE:
            fields["incomplete_reason"] = RunIncompleteReason.CONTENT_FILTER
        case RunStatus.REQUIRES_ACTION:
            fields["required_action"] = RequiredAction((FunctionCall("call_1", "f", "{}"),))
    return Run(ids.run_id(), PROJECT, thread_id, "asst_1", moment, status, "direct", **fields)


def insert(tx: Transaction, status: RunStatus) -> Run:
    moment = now()
    thread = Thread(ids.thread_id(), PROJECT, moment)
    run = in_status(status, thread.id, moment)
    threads.insert(tx.connection, thread)
    runs.insert(tx.connection, run)
    return run


async def is_let(database: Database, before: RunStatus, after: Run | RunStatus) -> bool:
    """Whether a run's row goes from one status to another, or to what stands there, past `states`."""
    run = await database.write(lambda tx: insert(tx, before))
    wanted = after if isinstance(after, Run) else in_status(after, run.thread_id, run.create_time)
    moved = replace(wanted, id=run.id, thread_id=run.thread_id)
    try:
        return await database.write(lambda tx: runs.move(tx.connection, moved, before))
    except sqlite3.IntegrityError:
        assert await database.read(lambda connection: runs.get(connection, PROJECT, run.id)) == run
        return False


async def test_database_lets_a_run_go_where_its_states_say_and_nowhere_else(database: Database) -> None:
    pairs = [(before, after) for before in RunStatus for after in RunStatus if before is not after]
    let = {(before, after) for before, after in pairs if await is_let(database, before, after)}
    assert let == {(before, after) for before, followers in FOLLOWERS.items() for after in followers}


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        (RunStatus.IN_PROGRESS, RunStatus.COMPLETED, {"expire_time": now()}),
        (RunStatus.IN_PROGRESS, RunStatus.COMPLETED, {"usage": None}),
        (RunStatus.IN_PROGRESS, RunStatus.COMPLETED, {"last_error": ERROR}),
        (RunStatus.IN_PROGRESS, RunStatus.FAILED, {"last_error": None}),
        (RunStatus.IN_PROGRESS, RunStatus.INCOMPLETE, {"incomplete_reason": None}),
        (RunStatus.IN_PROGRESS, RunStatus.REQUIRES_ACTION, {"required_action": None}),
        (RunStatus.REQUIRES_ACTION, RunStatus.QUEUED, {"required_action": RequiredAction(())}),
    ],
)
async def test_database_refuses_fields_that_contradict_the_status(
    database: Database, before: RunStatus, after: RunStatus, fields: dict[str, Any]
) -> None:
    assert await is_let(database, before, after)
    wanted = in_status(after, "", now())
    assert not await is_let(database, before, replace(wanted, **fields))


async def test_run_is_not_moved_from_where_it_is_not(database: Database) -> None:
    """Whoever read the row before somebody else moved it, changes nothing."""
    run = await database.write(lambda tx: insert(tx, RunStatus.QUEUED))

    def move(tx: Transaction) -> Run:
        events: list[EventDraft] = []
        moved = move_run(tx, events, run, RunStatus.IN_PROGRESS)
        assert len(events) == 1
        return moved

    moved = await database.write(move)
    with pytest.raises(IllegalTransition):
        await database.write(move)
    assert await database.read(lambda connection: runs.get(connection, PROJECT, run.id)) == moved


@pytest.mark.parametrize("end", sorted(set(StepStatus) - {StepStatus.IN_PROGRESS}))
async def test_step_that_is_over_stays_so(database: Database, end: StepStatus) -> None:
    run = await database.write(lambda tx: insert(tx, RunStatus.IN_PROGRESS))
    step = RunStep(ids.step_id(), PROJECT, run.id, run.thread_id, "asst_1", now(), StepStatus.IN_PROGRESS, ToolCalls())
    over = replace(step, status=end)

    def end_step(tx: Transaction) -> None:
        steps.insert(tx.connection, step)
        store_step(tx, step)
        store_step(tx, over)

    await database.write(end_step)
    for later in (step, over, replace(step, status=StepStatus.COMPLETED)):
        with pytest.raises(AlreadyOver):
            await database.write(lambda tx: store_step(tx, later))  # noqa: B023
    with pytest.raises(IntegrityError, match="stays as it is"):
        await force(database, f"UPDATE run_steps SET status = 'in_progress' WHERE id = '{step.id}'")
    assert await database.read(lambda connection: steps.get(connection, PROJECT, step.id)) == over


@pytest.mark.parametrize("end", sorted(set(MessageStatus) - {MessageStatus.IN_PROGRESS}))
async def test_message_that_is_over_stays_so(database: Database, end: MessageStatus) -> None:
    run = await database.write(lambda tx: insert(tx, RunStatus.IN_PROGRESS))
    message = Message(
        ids.message_id(), PROJECT, run.thread_id, now(), MessageRole.ASSISTANT, MessageStatus.IN_PROGRESS, ()
    )
    over = replace(message, status=end)

    def write_and_end(tx: Transaction) -> None:
        messages.insert(tx.connection, message)
        end_message(tx, over)

    await database.write(write_and_end)
    with pytest.raises(AlreadyOver):
        await database.write(lambda tx: end_message(tx, over))
    with pytest.raises(IntegrityError, match="stays as it is"):
        await force(database, f"UPDATE messages SET status = 'in_progress' WHERE id = '{message.id}'")
    assert await database.read(lambda connection: messages.get(connection, PROJECT, message.id)) == over


async def force(database: Database, statement: str) -> None:
    await database.write(lambda tx: tx.connection.exec_driver_sql(statement).rowcount)
