"""Group commit: one thread runs the units of work that wait, one after another, and commits them together.

A commit costs an fsync and some bookkeeping, however much it holds (and no fsync, if none of it has to outlive a power
cut). So a unit never has a transaction of its own: the
writer takes what has gathered, runs each unit (the second and later ones inside a savepoint, so that one that fails is
undone alone), commits once, and only then answers all of them.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from sqlalchemy import Connection

from .backend import Backend, Commit
from .units import Unit, UnitQueue

#: A commit waits for no more than this many units, and for none that begins later than this after the first.
_MAX_UNITS = 512
_MAX_SECONDS = 0.02
#: Commits of the event loop until the thread has its turn, and looks after the log.
_MOST_HERE = 64


class Transaction:
    """What a unit of work writes through. It ends with the unit: a unit neither commits nor rolls back."""

    __slots__ = ("callbacks", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.callbacks: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call it on the event loop once this unit is committed, in the order of commits; not if it fails."""
        self.callbacks.append(callback)


class TransactionLost(Exception):
    """A unit of work ended the transaction that it shared with others. None of them was committed."""


class _Batch:
    """The units of one commit: iterating takes them from the queue, until it is empty or the batch is full."""

    def __init__(self, first: Unit, queue: UnitQueue) -> None:
        self.units = [first]
        #: Known before the transaction begins: it decides how that commits.
        self.durable = first.durable
        #: Begins the next batch: it must be durable, and this one is not.
        self.left_over: Unit | None = None
        self._queue = queue

    def __iter__(self) -> Iterator[Unit]:
        yield self.units[0]
        end = time.monotonic() + _MAX_SECONDS
        while len(self.units) < _MAX_UNITS and time.monotonic() < end:
            unit = self._queue.take()
            if unit is None:
                return
            if unit.durable and not self.durable:
                self.left_over = unit
                return
            self.units.append(unit)
            yield unit

    def take_all(self) -> None:
        while (unit := self._queue.take()) is not None:
            self.units.append(unit)

    def fail(self, error: Exception) -> None:
        """Fail all units, for nothing was committed: those that had failed saw what never came to be."""
        for unit in self.units:
            unit.error = error


class GroupCommitWriter:
    """The one thread that writes, and the event loop when that thread has nothing to do. `submit` is for the loop."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._queue = UnitQueue(backend, loop)
        self._left_over: Unit | None = None
        #: Commits of the event loop since the last of the thread, which looks after the log that they make longer.
        self._done_here = 0
        self._connection: Connection | None = None
        self._thread = Thread(target=self._run, name="store-write")
        self._thread.start()

    def submit(self, work: Callable[[Transaction], Any], *, durable: bool) -> asyncio.Future[Any]:
        """Have a unit done: at once if that takes no fsync and nobody else is at it, else by the thread."""
        unit = self._queue.unit(work, durable=durable)
        if durable or self._done_here >= _MOST_HERE or not self._queue.is_idle or not self._do_here(unit):
            self._done_here = 0
            self._queue.submit(unit)
        return unit.future

    def _do_here(self, unit: Unit) -> bool:
        """Do a unit on the event loop, unless another process has the lock.

        The way to the thread and back takes longer than a small unit does.
        """
        batch = _Batch(unit, self._queue)
        try:
            with self._connected() as connection:
                self._commit(batch, connection, Commit.AT_ONCE)
        except Exception as error:
            if self._backend.is_locked(error):
                return False
            batch.fail(error)
        self._done_here += 1
        self._queue.settle(unit)
        return True

    def close(self) -> None:
        """Finish what was submitted and end the thread. It blocks: not for the event loop's own thread."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while self._serve():
            pass
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """The connection that writes, the thread's and the event loop's in turn.

        It is held, since taking it from its pool and giving it back takes as long as a small unit does.
        """
        connection = self._connection
        if connection is None:
            connection = self._connection = self._backend.writing.connect()
        try:
            yield connection
        except BaseException:
            # Whatever state it is in: this ends its transaction, and the next one begins anew.
            self._connection = None
            connection.close()
            raise

    def _serve(self) -> bool:
        """Run and commit the units that wait, once there are some; False when there will be none.

        What they hold (results, errors with their frames) is let go on return, not kept until the next ones come.
        """
        unit, self._left_over = self._left_over or self._queue.wait(), None
        if unit is None:
            return False
        batch = _Batch(unit, self._queue)
        try:
            with self._connected() as connection:
                self._commit(batch, connection, Commit.DURABLE if batch.durable else Commit.QUICK)
        except Exception as error:  # Whatever it is, it must reach the awaiters and must not end the thread.
            batch.fail(error)
        self._left_over = batch.left_over
        self._queue.answer(batch.units)
        return True

    def _commit(self, batch: _Batch, connection: Connection, commit: Commit) -> None:
        """Run the units of a batch, and commit those that did not fail."""
        try:
            transaction = self._backend.begin_writing(connection, commit)
        except Exception:
            # Another process holds the lock, most likely. Those behind are not to wait for it one batch after another.
            batch.take_all()
            raise
        shared = False
        for unit in batch:
            if shared:
                self._backend.execute(connection, "SAVEPOINT unit")
                if not self._attempt(unit, connection):
                    self._backend.execute(connection, "ROLLBACK TO SAVEPOINT unit")
                self._backend.execute(connection, "RELEASE SAVEPOINT unit")
            elif self._attempt(unit, connection):
                shared = True
            else:
                # No unit came before it that its failure could take along: it needed no savepoint.
                transaction.rollback()
                transaction = self._backend.begin_writing(connection, commit)
        if shared:
            transaction.commit()
        else:
            transaction.rollback()

    def _attempt(self, unit: Unit, connection: Connection) -> bool:
        transaction = Transaction(connection)
        try:
            unit.result = unit.work(transaction)
        except BaseException as error:  # It belongs to the awaiter, even if it would end this thread.
            unit.error = error
        if not self._backend.in_transaction(connection):
            # As SQLite may do when the disk is full. What the units before this one did is gone, too.
            raise unit.error if unit.error and self._backend.is_of_database(unit.error) else TransactionLost
        unit.callbacks = transaction.callbacks
        return unit.error is None
