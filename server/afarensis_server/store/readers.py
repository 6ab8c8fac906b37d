"""Threads that read: each takes a few units that wait, and runs them on one snapshot.

They are taken before the snapshot begins, so that each unit sees every commit before its call.
"""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any

from sqlalchemy import Connection

from .backend import Backend
from .units import Unit, UnitQueue

#: Few, so that a long unit holds up few others; the other threads take those behind.
_MAX_UNITS = 8


class ReaderThreads:
    """The threads that read. `submit` belongs to the event loop."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self._backend = backend
        self._queue = UnitQueue(backend, loop)
        self._threads = [Thread(target=self._run, name=f"store-read-{number}") for number in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[Connection], Any]) -> asyncio.Future[Any]:
        unit = self._queue.unit(work)
        self._queue.submit(unit)
        return unit.future

    def close(self) -> None:
        """Finish what was submitted and end the threads. It blocks: not for the event loop's own thread."""
        self._queue.close()
        for thread in self._threads:
            thread.join()

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
