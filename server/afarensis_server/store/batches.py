"""Units of work that share a transaction."""

import time
from collections.abc import Callable

from sqlalchemy import Connection

from .backend import Backend, Commit
from .units import Unit


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


class Batch:
    """Some units: begun, run and committed in turn, by whichever thread is at it.

    Each unit but the first runs inside a savepoint, so that one that fails is undone alone. An exception out of any of
    the three means that nothing is committed, and that the connection is of no use any more.
    """

    def __init__(self, backend: Backend, units: list[Unit]) -> None:
        self._backend = backend
        self.units = units
        self.durable = False
        for unit in units:
            self.durable = self.durable or unit.durable
        self._connection: Connection | None = None
        #: Whether a unit succeeded, so that there is something to commit.
        self._shared = False

    def begin(self, connection: Connection, commit: Commit) -> None:
        """Take the lock. Nothing has happened if this fails."""
        self._backend.begin_writing(connection, commit)
        self._connection = connection

    def run(self, connection: Connection, commit: Commit, seconds: float) -> list[Unit]:
        """Run the units, as many as can begin within some time; the others, which are none of the batch any more."""
        end = time.monotonic() + seconds
        for position, unit in enumerate(self.units):
            if position and time.monotonic() >= end:
                left, self.units = self.units[position:], self.units[:position]
                return left
            if self._shared:
                self._backend.execute(connection, "SAVEPOINT unit")
                if not self._attempt(unit, connection):
                    self._backend.execute(connection, "ROLLBACK TO SAVEPOINT unit")
                self._backend.execute(connection, "RELEASE SAVEPOINT unit")
            elif self._attempt(unit, connection):
                self._shared = True
            else:
                # No unit came before it that its failure could take along: it needed no savepoint.
                self._backend.roll_back(connection)
                self._backend.begin_writing(connection, commit)
        return []

    def commit(self) -> None:
        """Commit what did not fail."""
        assert self._connection is not None, "the batch has not begun"
        if self._shared:
            self._backend.commit(self._connection)
        else:
            self._backend.roll_back(self._connection)

    def fail(self, error: Exception) -> None:
        """Fail all units, for nothing was committed: those that had failed saw what never came to be."""
        for unit in self.units:
            unit.error = error

    def answer(self) -> None:
        """Tell the awaiters. For the event loop."""
        for unit in self.units:
            unit.answer(self._backend)

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
