"""The log of a run's events: stored before anyone sees them, read by cursor, gapless from 1.

There is no queue per reader. A reader holds the sequence of the last event it handled, reads the table to its end, and
waits for the next append; it may come late, drop and come back, without anybody keeping anything for it.
"""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from ..clock import now
from ..domain.events import (
    EventDraft,
    EventPayload,
    EventType,
    MessageDelta,
    RunEvent,
    RunStepDelta,
)
from ..domain.runs import Run, RunStep
from ..domain.threads import Message, Thread
from ..errors import CursorPastEnd, RunNotFound, ShuttingDown
from ..store import tables
from ..store.database import Database, Transaction
from ..store.types import Codec

#: Events that a reader takes from the table at a time: what a slow reader costs in memory.
_READ_LIMIT = 100

_logs = tables.event_logs.c
_events = tables.events.c


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing new: the log ends at ``last_sequence`` (0: it is empty)."""

    last_sequence: int


class LogEnded(Exception):
    """An event was to follow the one that ended the run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"nothing can follow the event that ended run {run_id}")


class LogPage(NamedTuple):
    """Some events of a log, and how far it had come when they were read."""

    events: list[RunEvent]
    last_sequence: int
    #: Whether the event ``last_sequence`` is the one that ended the run.
    ended: bool


class _State(NamedTuple):
    last_sequence: int
    ended: bool


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
_CODECS = {event_type: _codec_of(event_type) for event_type in EventType}

_take_sequences = (
    tables.event_logs.update()
    .where(_logs.run_id == bindparam("run"), _logs.project == bindparam("tenant"), _logs.ended.is_(False))
    .values(last_sequence=_logs.last_sequence + bindparam("count"), ended=bindparam("ends"))
    .returning(_logs.last_sequence)
)
_insert_events = tables.events.insert()
_select_state = select(_logs.last_sequence, _logs.ended).where(
    _logs.run_id == bindparam("run"), _logs.project == bindparam("tenant")
)
_select_events = (
    select(_events.sequence, _events.create_time, _events.type, _events.payload)
    .where(
        _events.run_id == bindparam("run"),
        _events.project == bindparam("tenant"),
        _events.sequence > bindparam("after"),
    )
    .order_by(_events.sequence)
)
_select_some_events = _select_events.limit(bindparam("most"))


class EventLog:
    """The logs of all runs. It belongs to the database's event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: What the readers of a run wait for; gone with the last of them.
        self._appended: weakref.WeakValueDictionary[str, asyncio.Future[None]] = weakref.WeakValueDictionary()
        self._draining = False

    def append(self, tx: Transaction, project: str, run_id: str, drafts: Sequence[EventDraft]) -> list[RunEvent]:
        """Append events within a unit of work, and wake the run's readers once it is committed.

        Raises RunNotFound when the run is gone, and LogEnded after an event that ends the run.
        """
        if not drafts:
            return []
        ends = drafts[-1].type.ends_run
        if any(draft.type.ends_run for draft in drafts[:-1]):
            raise LogEnded(run_id)
        last = tx.connection.execute(
            _take_sequences, {"run": run_id, "tenant": project, "count": len(drafts), "ends": ends}
        ).scalar_one_or_none()
        if last is None:
            _state(tx.connection, project, run_id)
            raise LogEnded(run_id)
        time = now()
        stored = [
            RunEvent(run_id, sequence, time, draft.type, draft.payload)
            for sequence, draft in enumerate(drafts, last - len(drafts) + 1)
        ]
        tx.connection.execute(
            _insert_events,
            [
                {
                    "project": project,
                    "run_id": run_id,
                    "sequence": event.sequence,
                    "create_time": time,
                    "type": event.type,
                    "payload": _CODECS[event.type].encode(event.payload),
                }
                for event in stored
            ],
        )
        tx.after_commit(partial(self.wake, run_id))
        return stored

    async def read(self, project: str, run_id: str, after_sequence: int, limit: int) -> list[RunEvent]:
        """The next events behind a cursor, at most this many."""
        return await self._database.read(lambda connection: _read(connection, project, run_id, after_sequence, limit))

    async def page(self, project: str, run_id: str, after_sequence: int, limit: int) -> LogPage:
        """The next events behind a cursor, at most this many. Raises RunNotFound and CursorPastEnd."""

        def read(connection: Connection) -> LogPage:
            # The state first: what is appended between the two may be among the events, but is never missing.
            state = _state(connection, project, run_id)
            if after_sequence > state.last_sequence:
                raise CursorPastEnd(after_sequence=after_sequence, last_sequence=state.last_sequence)
            return LogPage(_read(connection, project, run_id, after_sequence, limit), *state)

        return await self._database.read(read)

    async def read_all(self, project: str, run_id: str) -> list[RunEvent]:
        return await self._database.read(lambda connection: _read(connection, project, run_id, 0, None))

    async def last_sequence(self, project: str, run_id: str) -> int:
        """The sequence of the last event, 0 before the first. Raises RunNotFound."""
        state = await self._database.read(lambda connection: _state(connection, project, run_id))
        return state.last_sequence

    async def follow(
        self, project: str, run_id: str, after_sequence: int, heartbeat_seconds: float
    ) -> AsyncGenerator[RunEvent | Heartbeat, None]:
        """A heartbeat, then the events behind the cursor: those stored, those to come, until the one that ends the run.

        Another heartbeat comes whenever nothing else did for so long. Raises RunNotFound (also when the run is deleted
        meanwhile), CursorPastEnd, and ShuttingDown once `drain` is called.
        """
        cursor = after_sequence
        state = await self._database.read(lambda connection: _state(connection, project, run_id))
        if cursor > state.last_sequence:
            raise CursorPastEnd(after_sequence=cursor, last_sequence=state.last_sequence)
        yield Heartbeat(state.last_sequence)
        if state.ended and cursor == state.last_sequence:
            return
        woken: set[asyncio.Future[None]] = set()
        while True:
            # Both before reading: an append in between is not missed then, nor one before the drain.
            appended, draining = self._waiter(run_id), self._draining
            events = await self.read(project, run_id, cursor, _READ_LIMIT)
            for event in events:
                yield event
                cursor = event.sequence
                if event.type.ends_run:
                    return
            if len(events) == _READ_LIMIT:
                continue
            if woken and not events:
                await self.last_sequence(project, run_id)  # raises when the run was deleted
            if draining:
                raise ShuttingDown
            # Not wait_for: it would cancel the future for the other readers, too.
            woken, _ = await asyncio.wait((appended,), timeout=heartbeat_seconds)
            if not woken:
                yield Heartbeat(await self.last_sequence(project, run_id))

    def drain(self) -> None:
        """Let every reader go, those to come as well: they raise ShuttingDown where they would wait."""
        self._draining = True
        for run_id in list(self._appended):
            self.wake(run_id)

    def wake(self, run_id: str) -> None:
        """Let the readers of a run look again: something was appended, or the run was deleted."""
        waiter = self._appended.pop(run_id, None)
        if waiter is not None:
            waiter.set_result(None)

    def _waiter(self, run_id: str) -> asyncio.Future[None]:
        waiter = self._appended.get(run_id)
        if waiter is None:
            waiter = self._appended[run_id] = asyncio.get_running_loop().create_future()
        return waiter


def _state(connection: Connection, project: str, run_id: str) -> _State:
    row = connection.execute(_select_state, {"run": run_id, "tenant": project}).one_or_none()
    if row is None:
        raise RunNotFound(id=run_id)
    return _State(row.last_sequence, row.ended)


def _read(connection: Connection, project: str, run_id: str, after: int, limit: int | None) -> list[RunEvent]:
    parameters = {"run": run_id, "tenant": project, "after": after}
    if limit is None:
        rows = connection.execute(_select_events, parameters)
    else:
        rows = connection.execute(_select_some_events, {**parameters, "most": limit})
    return [
        RunEvent(run_id, sequence, time, event_type, _CODECS[event_type].decode(payload))
        for sequence, time, event_type, payload in rows
    ]
