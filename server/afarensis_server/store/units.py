"""Units of work, and their way from the event loop to threads and back.

The hop between threads costs more than most units do. So threads take several that wait, and answer them in one call
into the event loop.
"""

import asyncio
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import DomainError
from .backend import Backend


class Unit:
    """A unit of work with its awaiter, who may leave: the unit is done all the same."""

    __slots__ = ("callbacks", "durable", "error", "future", "long", "result", "work")

    def __init__(
        self, work: Callable[[Any], Any], future: asyncio.Future[Any], *, durable: bool = True, long: bool = False
    ) -> None:
        self.work = work
        self.future = future
        #: Whether what it writes is to outlive a power cut.
        self.durable = durable
        #: Whether it takes longer than the event loop may be held up.
        self.long = long
        self.result: Any = None
        self.error: BaseException | None = None
        #: Called on the event loop before the answer, unless there is an error.
        self.callbacks: list[Callable[[], None]] = []

    def answer(self, backend: Backend) -> None:
        """Give the outcome to the awaiter. For the event loop."""
        if self.error is not None:
            self._refuse(backend.translate(self.error))
            return
        for callback in self.callbacks:
            try:
                callback()
            except Exception as error:  # What went wrong for one must not keep the others waiting.
                self._report("A callback after a commit failed", error)
        if not self.future.done():
            self.future.set_result(self.result)

    def _refuse(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        elif not isinstance(error, DomainError):
            self._report("A unit of work failed after its caller had left", error)

    def _report(self, message: str, error: BaseException) -> None:
        self.future.get_loop().call_exception_handler({"message": message, "exception": error})


class UnitQueue:
    """Units that wait for a thread. `submit` belongs to the event loop; the rest to the threads."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._loop = loop
        self._queue: SimpleQueue[Unit | None] = SimpleQueue()

    def submit(self, work: Callable[[Any], Any]) -> asyncio.Future[Any]:
        """Have a thread do a unit. Cancelling its future does not keep it from being done."""
        unit = Unit(work, self._loop.create_future())
        self._queue.put(unit)
        return unit.future

    def close(self) -> None:
        """Let the threads end once they have done what was submitted. Nothing may be submitted after this."""
        self._queue.put(None)

    def wait(self) -> Unit | None:
        """The next unit, as soon as there is one; None when the queue is closed and empty."""
        return self._unless_end(self._queue.get())

    def take(self) -> Unit | None:
        """The next unit, if one waits."""
        try:
            return self._unless_end(self._queue.get_nowait())
        except Empty:
            return None

    def answer(self, units: list[Unit]) -> None:
        self._loop.call_soon_threadsafe(self._answer, units)

    def _answer(self, units: list[Unit]) -> None:
        for unit in units:
            unit.answer(self._backend)

    def _unless_end(self, unit: Unit | None) -> Unit | None:
        if unit is None:
            # The end stays in the queue, for all threads to see.
            self._queue.put(None)
        return unit


class Patience:
    """Decides, by how long units took on the event loop, whether it does the next ones.

    One that takes long did not find its pages in memory. Then threads do them for a while: for twice as long each time
    that the next one here is as slow.
    """

    _LEAST, _MOST = 0.1, 10.0

    def __init__(self, slow_seconds: float) -> None:
        self._slow_seconds = slow_seconds
        self._lost_until = 0.0
        self._lost_seconds = self._LEAST

    @property
    def is_lost(self) -> bool:
        """Whether units are the threads' for now."""
        return self._lost_until > 0.0 and time.monotonic() < self._lost_until

    def took(self, seconds: float) -> None:
        """A unit was done here, in so long."""
        if seconds <= self._slow_seconds:
            self._lost_seconds = self._LEAST
        else:
            self._lost_until = time.monotonic() + self._lost_seconds
            self._lost_seconds = min(2 * self._lost_seconds, self._MOST)
