"""Units of work on their way from the event loop to a thread and back.

The hop between threads costs more than most units do. So threads take several that wait, and answer them in one call
into the event loop.
"""

import asyncio
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import DomainError
from .backend import Backend


class Unit:
    """A unit of work with its awaiter, who may leave: the unit is done all the same."""

    __slots__ = ("callbacks", "durable", "error", "future", "result", "work")

    def __init__(self, work: Callable[[Any], Any], future: asyncio.Future[Any], durable: bool) -> None:
        self.work = work
        self.future = future
        #: Whether what it writes is to outlive a power cut.
        self.durable = durable
        self.result: Any = None
        self.error: BaseException | None = None
        #: Called on the event loop before the answer, unless there is an error.
        self.callbacks: list[Callable[[], None]] = []


class UnitQueue:
    """Units that wait for a thread. `submit` belongs to the event loop; the rest to the threads."""

    def __init__(self, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self._loop = loop
        self._queue: SimpleQueue[Unit | None] = SimpleQueue()
        #: Units that were submitted and are not answered yet.
        self._unanswered = 0

    @property
    def is_idle(self) -> bool:
        """Whether every unit is answered, so that no thread is at work on one."""
        return self._unanswered == 0

    def unit(self, work: Callable[[Any], Any], *, durable: bool = True) -> Unit:
        """A unit with a future of its result. Cancelling that does not keep the unit from being done."""
        return Unit(work, self._loop.create_future(), durable)

    def submit(self, unit: Unit) -> None:
        """Have a thread do the unit."""
        self._unanswered += 1
        self._queue.put(unit)

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

    def _unless_end(self, unit: Unit | None) -> Unit | None:
        if unit is None:
            # The end stays in the queue, for all threads to see.
            self._queue.put(None)
        return unit

    # --- on the event loop -------------------------------------------------------------------------------------------

    def _answer(self, units: list[Unit]) -> None:
        for unit in units:
            self.settle(unit)
        # Last: what a callback submits must not get ahead of the units that are still to be answered here.
        self._unanswered -= len(units)

    def settle(self, unit: Unit) -> None:
        """Give a unit that is done to its awaiter."""
        if unit.error is not None:
            self._refuse(unit.future, self._backend.translate(unit.error))
            return
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
            self._report("A unit of work failed after its caller had left", error)

    def _report(self, message: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})
