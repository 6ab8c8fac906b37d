"""Group commit: the units of work that wait are run one after another, and committed together.

A commit costs an fsync and some bookkeeping, however much it holds (and no fsync, if none of it has to outlive a power
cut). So a unit never has a transaction of its own.

The statements of small units run on the event loop, and a thread does no more than to wait for the disk. It would have
to get hold of the interpreter's lock again behind each statement, and with a busy event loop that takes a thousand
times as long as the statement does.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection

from .backend import Backend, Commit
from .batches import Batch, Transaction, TransactionLost
from .checkpoints import Checkpoints
from .units import Patience, Unit

__all__ = ["GroupCommitWriter", "Transaction", "TransactionLost"]

#: A commit waits for no more than this many units, and for none that begins later than this after the first.
_MAX_UNITS = 512
_MAX_SECONDS = 0.02
#: The same on the event loop, where others want their turn, too.
_MAX_SECONDS_HERE = 0.005
#: A unit that takes longer there waits for the disk.
_SLOW_SECONDS = 0.05


class GroupCommitWriter:
    """The event loop and one thread, which write in turn. It belongs to the loop."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._loop = loop
        self._waiting: deque[Unit] = deque()
        #: Whether a unit waits, runs, or is to be answered.
        self._at_work = False
        #: Who waits until none does.
        self._closing: asyncio.Future[None] | None = None
        self._patience = Patience(_SLOW_SECONDS)
        self._checkpoints = Checkpoints(backend, loop)
        #: Held, since taking it from its pool and giving it back takes as long as a small unit does.
        self._connection: Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")

    def submit(self, work: Callable[[Transaction], Any], *, durable: bool, long: bool) -> asyncio.Future[Any]:
        """Have a unit done: at once if nobody else is at it. Cancelling the future does not keep it from being done."""
        unit = Unit(work, self._loop.create_future(), durable=durable, long=long)
        self._waiting.append(unit)
        if not self._at_work:
            self._at_work = True
            self._go_on()
        return unit.future

    async def close(self) -> None:
        """Finish what was submitted, and end the thread. Nothing may be submitted after this."""
        if self._at_work:
            self._closing = self._loop.create_future()
            await self._closing
        await asyncio.to_thread(self._thread.shutdown)
        await self._checkpoints.close()
        self._disconnect()

    def _go_on(self) -> None:
        """Do some of what waits."""
        batch = self._take()
        is_for_thread = batch.units[0].long or self._patience.is_lost or self._checkpoints.is_overdue
        if is_for_thread or not self._do_here(batch):
            self._thread.submit(self._do, batch)

    def _take(self) -> Batch:
        """The units for the next commit. A long one is its first: the thread does those behind it as well."""
        units = [self._waiting.popleft()]
        while self._waiting and len(units) < _MAX_UNITS and (units[0].long or not self._waiting[0].long):
            units.append(self._waiting.popleft())
        return Batch(self._backend, units)

    def _do_here(self, batch: Batch) -> bool:
        """Run a batch on the event loop, and let the thread commit it if that takes an fsync.

        Does nothing if another process has the lock, which is not to be waited for here.
        """
        commit = Commit.HERE_DURABLE if batch.durable else Commit.HERE
        try:
            connection = self._connected()
            try:
                batch.begin(connection, commit)
            except Exception as error:
                if not self._backend.is_locked(error):
                    raise
                self._disconnect()
                return False
            began = time.monotonic()
            if left := batch.run(connection, commit, _MAX_SECONDS_HERE):
                self._waiting.extendleft(reversed(left))
            self._patience.took(time.monotonic() - began)
            if batch.durable:
                self._thread.submit(self._commit, batch)
                return True
            batch.commit()
        except Exception as error:
            self._abandon(batch, error)
        self._committed(batch)
        return True

    def _committed(self, batch: Batch) -> None:
        self._answer(batch)
        self._checkpoints.committed()

    def _answer(self, batch: Batch) -> None:
        batch.answer()
        # What was submitted meanwhile had to wait, also by those who were just told: nothing gets ahead of what waits.
        if self._waiting:
            self._loop.call_soon(self._go_on)
            return
        self._at_work = False
        if self._closing is not None:
            self._closing.set_result(None)

    def _abandon(self, batch: Batch, error: Exception) -> None:
        """Nothing of a batch was committed. Whatever state the connection is in: the next one begins anew."""
        batch.fail(error)
        self._disconnect()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._backend.writing.connect()
            # For good: where SQLAlchemy knows of no transaction, it rolls the driver's back at an error.
            self._connection.begin()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _do(self, batch: Batch) -> None:
        """Run and commit a batch."""
        commit = Commit.DURABLE if batch.durable else Commit.QUICK
        left: list[Unit] = []
        try:
            connection = self._connected()
            batch.begin(connection, commit)
            left = batch.run(connection, commit, _MAX_SECONDS)
            batch.commit()
        except Exception as error:  # Whatever it is, it must reach the awaiters.
            self._abandon(batch, error)
        self._loop.call_soon_threadsafe(self._done, batch, left)

    def _commit(self, batch: Batch) -> None:
        """Commit a batch that was run."""
        try:
            batch.commit()
        except Exception as error:
            self._abandon(batch, error)
        self._loop.call_soon_threadsafe(self._committed, batch)

    def _done(self, batch: Batch, left: list[Unit]) -> None:
        self._checkpoints.done()
        self._waiting.extendleft(reversed(left))
        self._answer(batch)
