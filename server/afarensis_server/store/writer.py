"""Group commit: one thread runs the units of work that wait, one after another, and commits them together.

A commit costs an fsync and some bookkeeping, however much it holds. So a unit never has a transaction of its own: the
writer takes what has gathered, runs each unit (the second and later ones inside a savepoint, so that one that fails is
undone alone), commits once, and only then answers all of them, in one call into the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..errors import DomainError
from .backend import Backend

#: A commit waits for no more than this many units, and for none that begins later than this after the first.
_MAX_UNITS = 512
_MAX_SECONDS = 0.02


class Transaction:
    """What a unit of work writes through. It ends with the unit: a unit neither commits nor rolls back."""

    __slots__ = ("callbacks", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.callbacks: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call it on the event loop once this unit is committed, in the order of commits; not if it fails."""
        self.callbacks.append(callback)


class _Unit:
    """A unit of work with its awaiter. The awaiter may be cancelled; the unit is done all the same."""

    __slots__ = ("callbacks", "error", "future", "result", "work")

    def __init__(self, work: Callable[[Transaction], Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[], None]] = []


class _Batch:
    """The units of one commit: iterating takes them from the queue, until it is empty or the batch is full."""

    def __init__(self, first: _Unit, queue: "SimpleQueue[_Unit | None]") -> None:
        self.units = [first]
        #: Whether the writer is to end after this batch.
        self.last = False
        self._queue = queue

    def __iter__(self) -> Iterator[_Unit]:
        yield self.units[0]
        end = time.monotonic() + _MAX_SECONDS
        while len(self.units) < _MAX_UNITS and time.monotonic() < end and self._take():
            yield self.units[-1]

    def fail(self, error: Exception) -> None:
        """Fail all units, for nothing was committed: those that had failed saw what never came to be.

        Those that wait behind fail, too: another process may hold the lock, and each attempt waits for it.
        """
        while self._take():
            pass
        for unit in self.units:
            unit.error = error

    def _take(self) -> bool:
        """Add the next unit that waits, if there is one."""
        if self.last:
            return False
        try:
            unit = self._queue.get_nowait()
        except Empty:
            return False
        if unit is None:
            self.last = True
            return False
        self.units.append(unit)
        return True


class GroupCommitWriter:
    """The one thread that writes. `submit` belongs to the event loop."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._loop = loop
        self._queue: SimpleQueue[_Unit | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="store-write")
        self._thread.start()

    def submit(self, work: Callable[[Transaction], Any]) -> asyncio.Future[Any]:
        """A future of the unit's result. Cancelling it does not keep the unit from being done."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Unit(work, future))
        return future

    def close(self) -> None:
        """Finish what was submitted and end the thread. It blocks: not for the event loop's own thread."""
        self._queue.put(None)
        self._thread.join()

    # --- the writer's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (unit := self._queue.get()) is not None:
            batch = _Batch(unit, self._queue)
            try:
                with self._backend.writing.connect() as connection:
                    self._commit(batch, connection)
            except Exception as error:  # Whatever it is, it must reach the awaiters and must not end the writer.
                batch.fail(error)
            self._loop.call_soon_threadsafe(self._answer, batch.units)
            if batch.last:
                return

    def _commit(self, batch: _Batch, connection: Connection) -> None:
        """Run the units of a batch, and commit those that did not fail."""
        transaction = connection.begin()
        shared = False
        for unit in batch:
            if shared:
                connection.exec_driver_sql("SAVEPOINT unit")
                if not self._attempt(unit, connection):
                    self._undo(unit, connection)
                connection.exec_driver_sql("RELEASE SAVEPOINT unit")
            elif self._attempt(unit, connection):
                shared = True
            else:
                # No unit came before it that its failure could take along: it needed no savepoint.
                transaction.rollback()
                transaction = connection.begin()
        if shared:
            transaction.commit()
        else:
            transaction.rollback()

    def _undo(self, unit: _Unit, connection: Connection) -> None:
        try:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unit")
        except DBAPIError as error:
            # The database gave up the whole transaction, as SQLite may do when the disk is full.
            raise (unit.error if isinstance(unit.error, DBAPIError) else error) from None

    def _attempt(self, unit: _Unit, connection: Connection) -> bool:
        transaction = Transaction(connection)
        try:
            unit.result = unit.work(transaction)
        except BaseException as error:  # It belongs to the awaiter, even if it would end this thread.
            unit.error = error
            return False
        if not self._backend.in_transaction(connection):
            # The unit caught an error that had undone it, and those before it with it.
            raise RuntimeError("a unit of work ended the transaction that it shares with others")
        unit.callbacks = transaction.callbacks
        return True

    # --- the event loop ----------------------------------------------------------------------------------------------

    def _answer(self, units: list[_Unit]) -> None:
        for unit in units:
            if unit.error is not None:
                self._refuse(unit.future, self._backend.translate(unit.error))
                continue
            for callback in unit.callbacks:
                try:
                    callback()
                except Exception as error:  # What went wrong for one must not keep the others waiting.
                    self._report("A callback after a commit failed", error)
            if not unit.future.done():
                unit.future.set_result(unit.result)

    def _refuse(self, future: asyncio.Future[Any], error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)
        elif not isinstance(error, DomainError):
            self._report("A write failed after its caller had left", error)

    def _report(self, message: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})
