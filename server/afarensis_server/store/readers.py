"""Threads that read: each takes a few units that wait, and runs them on one snapshot.

They are taken before the snapshot begins, so that each unit sees every commit before its call. What reads a row by its
key is done on the event loop, since the way to a thread and back takes longer, unless the disk turns out to be slow.
"""

import asyncio
import time
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from sqlalchemy import Connection

from .backend import Backend
from .units import Patience, Unit, UnitQueue

#: Few, so that a long unit holds up few others; the other threads take those behind.
_MAX_UNITS = 8
#: A look that takes longer than this did not find its pages in memory.
_SLOW_SECONDS = 0.005

T = TypeVar("T")


class ReaderThreads:
    """The threads that read. `submit` belongs to the event loop."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self._backend = backend
        self._queue = UnitQueue(backend, loop)
        self._connection: Connection | None = None
        self._patience = Patience(_SLOW_SECONDS)
        self._threads = [Thread(target=self._run, name=f"store-read-{number}") for number in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[Connection], Any]) -> asyncio.Future[Any]:
        return self._queue.submit(work)

    async def look(self, work: Callable[[Connection], T]) -> T:
        """Run a unit of one statement that finds a row by its key."""
        if not self._patience.is_lost:
            connection = self._connected()
            began = time.monotonic()
            try:
                return work(connection)
            except Exception as error:
                if not self._backend.is_of_database(error):
                    raise
                # A lock, most likely: threads wait for it, and tell if it is something else.
                self._disconnect()
            finally:
                self._patience.took(time.monotonic() - began)
        result: T = await self.submit(work)
        return result

    def _connected(self) -> Connection:
        """The event loop's own connection."""
        if self._connection is None:
            self._connection = self._backend.reading.connect()
            self._backend.wait_for_nothing(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # another thread may get it, and is to wait for locks
            connection.close()

    def close(self) -> None:
        """Finish what was submitted and end the threads. It blocks: not for the event loop's own thread."""
        self._queue.close()
        for thread in self._threads:
            thread.join()
        self._disconnect()

    def _run(self) -> None:
        while self._serve():
            pass

    def _serve(self) -> bool:
        """Run the units that wait, once there are some; False when there will be none.

        What they hold (results, errors with their frames) is let go on return, not kept until the next ones come.
        """
        unit = self._queue.wait()
        if unit is None:
            return False
        units = [unit]
        while len(units) < _MAX_UNITS and (following := self._queue.take()) is not None:
            units.append(following)
        try:
            with self._backend.reading.connect() as connection:
                self._backend.begin_reading(connection)
                for each in units:
                    _attempt(each, connection)
        except Exception as error:  # Whatever it is, it must reach the awaiters and must not end the thread.
            for each in units:
                each.error = error
        self._queue.answer(units)
        return True


def _attempt(unit: Unit, connection: Connection) -> None:
    if unit.future.cancelled():
        # Reading for nobody changes nothing.
        return
    try:
        unit.result = unit.work(connection)
    except BaseException as error:  # It belongs to the awaiter, even if it would end this thread.
        unit.error = error
