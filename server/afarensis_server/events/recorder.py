"""Writes down what happens in one run or execution: rows and events together, in order, before anyone sees them."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from ..store.database import Database
from ..store.writer import Transaction
from .log import D, EventLog
from .tail import E, Tail

T = TypeVar("T")

#: Events that may wait for a commit before whoever makes them has to wait too.
_PENDING_LIMIT = 64
#: Characters of one merged output.
MERGE_LIMIT = 64 * 1024


class Recorder(Generic[D, E]):
    """The only writer of a log while somebody works on its owner.

    What goes on (deltas, output) is committed in the background and merged while it waits for the commit before it, so
    that a fast model or a chatty program costs one transaction per commit, not one per token. State changes go with
    everything before them, and commit their rows and their events as one.
    """

    def __init__(
        self,
        database: Database,
        log: EventLog[D, E],
        project: str,
        owner_id: str,
        merge: Callable[[D, D], D | None],
        durable: bool = True,
        opening: Callable[[Transaction], None] | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
        guard: Callable[[Transaction], None] | None = None,
        patience_seconds: float = 0.0,
        tail: Tail[E] | None = None,
    ) -> None:
        """Nothing is written yet.

        Args:
            database: where the log is.
            log: the log.
            project: whose the owner is.
            owner_id: the run or execution.
            merge: two events as one; None where that is not possible.
            durable: whether what happens is to outlive a power cut.
            opening: what goes with the first commit, before the events: it stores the owner, say.
            on_failure: told when a commit in the background fails. What was to be committed stays, for the next one.
            guard: goes before everything in each commit; raises where the writer may not write any more.
            patience_seconds: how long the first events may wait for others, if nobody asks for them.
            tail: the log's, where the caller has it.
        """
        self._database = database
        self._log = log
        self._project = project
        self._owner_id = owner_id
        self._merge = merge
        self._durable = durable
        self._opening = opening
        self._on_failure = on_failure
        self._guard = guard
        # Its readers are most likely here, too.
        self._tail = log.tail(project, owner_id) if tail is None else tail
        self._pending: list[D] = []
        self._loop = asyncio.get_running_loop()
        #: When what waits is next taken for a commit, at the earliest, by the clock of the event loop.
        self._due = self._loop.time() + patience_seconds
        self._order = asyncio.Lock()
        self._begin: asyncio.Handle | None = None
        self._flusher: asyncio.Task[None] | None = None

    async def emit(self, draft: D) -> None:
        """Put an event down for the next commit. Waits only when too many wait already."""
        self._pending.append(draft)
        if self._flusher is not None and self._flusher.done():
            flusher, self._flusher = self._flusher, None
            flusher.result()  # a failed commit ends the work that made it
        if self._flusher is None and self._begin is None:
            wait = self._due - self._loop.time()
            # Not at once: what comes in the same turn, such as the end, goes with it.
            begin = self._begin_flush
            self._begin = self._loop.call_later(wait, begin) if wait > 0 else self._loop.call_soon(begin)
        if len(self._pending) > _PENDING_LIMIT:
            await self.flush()

    async def record(self, work: Callable[[Transaction, list[D]], T]) -> T:
        """Commit rows and events together, behind all events so far and with those that are not committed yet.

        ``work`` changes rows and appends the events that tell of it to the list it gets. If it raises, nothing of it
        is stored; the events before it are.
        """
        async with self._order:
            batch = self._take()
            try:
                return await self._database.write(lambda tx: self._do(tx, batch, work), durable=self._durable)
            except Exception:
                await self._store(batch)
                raise

    async def flush(self) -> None:
        """Commit all events so far."""
        async with self._order:
            while self._pending:
                await self._store(self._take())

    async def close(self) -> None:
        """Wait for the background commit. Raises what it raised."""
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            await flusher
        await self.flush()

    def _begin_flush(self) -> None:
        self._begin = None
        self._flusher = asyncio.create_task(self.flush(), name=f"flush {self._owner_id}")
        self._flusher.add_done_callback(self._flushed)

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        if self._on_failure is not None and not flusher.cancelled() and (error := flusher.exception()) is not None:
            self._on_failure(error)

    def _take(self) -> list[D]:
        batch, self._pending = self._pending, []
        if self._begin is not None:
            self._begin.cancel()
            self._begin = None
        self._due = self._loop.time() + self._log.pace
        return self._merged(batch)

    async def _store(self, batch: list[D]) -> None:
        try:
            await self._database.write(lambda tx: self._commit(tx, batch), durable=self._durable)
        except Exception:
            # Nothing of it is stored. It stays the first of what waits.
            self._pending = batch + self._pending
            raise

    def _do(self, tx: Transaction, batch: list[D], work: Callable[[Transaction, list[D]], T]) -> T:
        self._check(tx)
        events: list[D] = []
        value = work(tx, events)
        self._append(tx, batch + events)
        return value

    def _commit(self, tx: Transaction, batch: list[D]) -> None:
        self._check(tx)
        self._append(tx, batch)

    def _check(self, tx: Transaction) -> None:
        if self._guard is not None:
            self._guard(tx)

    def _append(self, tx: Transaction, events: list[D]) -> None:
        opening = self._opening
        if opening is not None:
            opening(tx)
            tx.after_commit(self._opened)
        self._log.append(tx, self._project, self._owner_id, events, opening=opening is not None)

    def _opened(self) -> None:
        self._opening = None

    def _merged(self, drafts: list[D]) -> list[D]:
        """The same in as few events as may be. In rounds of two and two, so that no text is copied again and again."""
        while True:
            merged: list[D] = []
            alone = False
            for draft in drafts:
                both = self._merge(merged[-1], draft) if alone else None
                if both is not None:
                    merged[-1] = both
                else:
                    merged.append(draft)
                alone = both is None
            if len(merged) == len(drafts):
                return merged
            drafts = merged
