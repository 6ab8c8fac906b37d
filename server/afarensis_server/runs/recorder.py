"""Writes down what happens in one run: rows and events together, in order, before anyone sees them."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ..domain.events import EventDraft, EventType, MessageDelta, RunStepDelta
from ..events.log import EventLog
from ..store.database import Database
from ..store.writer import Transaction
from .drafts import merge_message_deltas, merge_step_deltas

T = TypeVar("T")

#: Deltas that may wait for a commit before whoever makes them has to wait too.
_PENDING_LIMIT = 64
#: Characters of one merged output delta.
_MERGE_LIMIT = 32 * 1024


class Recorder:
    """The only writer of a run's events while a worker holds the run.

    Deltas are committed in the background and merged while they wait for the commit before theirs, so that a fast model
    or a chatty program costs one transaction per commit, not one per token. State changes wait for everything before
    them and commit their rows and their events as one.
    """

    def __init__(self, database: Database, log: EventLog, project: str, run_id: str) -> None:
        self._database = database
        self._log = log
        self._project = project
        self._run_id = run_id
        self._pending: list[EventDraft] = []
        self._order = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None

    async def emit(self, draft: EventDraft) -> None:
        """Put a delta down for the next commit. Waits only when too many wait already."""
        self._add(draft)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self.flush(), name=f"flush {self._run_id}")
        elif self._flusher.done():
            self._flusher.result()  # a failed commit ends the run that made it
            self._flusher = asyncio.create_task(self.flush(), name=f"flush {self._run_id}")
        if len(self._pending) > _PENDING_LIMIT:
            await self.flush()

    async def record(self, work: Callable[[Transaction, list[EventDraft]], T]) -> T:
        """Commit rows and events together, behind all deltas so far.

        ``work`` changes rows and appends the events that tell of it to the list it gets. If it raises, nothing of it
        is stored; the deltas before it are.
        """
        while True:
            await self.flush()
            async with self._order:
                if self._pending:
                    continue
                return await self._database.write(lambda tx: self._commit(tx, work))

    async def flush(self) -> None:
        """Commit all deltas so far."""
        async with self._order:
            while self._pending:
                batch, self._pending = self._pending, []
                await self._database.write(
                    lambda tx, batch=batch: self._log.append(tx, self._project, self._run_id, batch)  # type: ignore[misc]
                )

    async def close(self) -> None:
        """Wait for the background commit. Raises what it raised."""
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            await flusher
        await self.flush()

    def _commit(self, tx: Transaction, work: Callable[[Transaction, list[EventDraft]], T]) -> T:
        events: list[EventDraft] = []
        value = work(tx, events)
        if events:
            self._log.append(tx, self._project, self._run_id, events)
        return value

    def _add(self, draft: EventDraft) -> None:
        if self._pending and (merged := _merge(self._pending[-1], draft)) is not None:
            self._pending[-1] = merged
        else:
            self._pending.append(draft)


def _merge(first: EventDraft, second: EventDraft) -> EventDraft | None:
    merged: MessageDelta | RunStepDelta | None = None
    if isinstance(first.payload, MessageDelta) and isinstance(second.payload, MessageDelta):
        merged = merge_message_deltas(first.payload, second.payload)
        return None if merged is None else EventDraft(EventType.MESSAGE_DELTA, merged)
    if isinstance(first.payload, RunStepDelta) and isinstance(second.payload, RunStepDelta):
        merged = merge_step_deltas(first.payload, second.payload, _MERGE_LIMIT)
        return None if merged is None else EventDraft(EventType.STEP_DELTA, merged)
    return None
