"""SIGINT as KeyboardInterrupt, only while a cell runs and never in the middle of the guest's own bookkeeping.

An interrupt can be lost. The kernel delivers a signal that Python looks at later, and a call that waits, begun just
before, waits on; and what is raised while Python calls back (a finalizer, say) goes nowhere. So the host, where a cell
goes on, sends another signal, which does nothing where the first one was heard.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` is made of
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TypeVar

#: What the host sends after a SIGINT that may have been lost.
AGAIN = signal.SIGRTMAX - 3

Value = TypeVar("Value")


class Interrupts:
    """Decides what a SIGINT does: end the cell, wait until a shielded section is over, or nothing."""

    def __init__(self) -> None:
        #: The only thread that signals reach.
        self._main = threading.main_thread().ident
        os.register_at_fork(after_in_child=self._note_main)
        self._armed = False
        self._shields = 0
        self._pending = False
        #: A KeyboardInterrupt was raised by a signal since the last ``run``, not by the user's own code.
        self.fired = False

    def install(self) -> None:
        """Take over SIGINT. Also done before each cell, since user code may have set a handler of its own."""
        # Past what turns numbers into enums, which takes far longer than the rest.
        _signal.signal(_signal.SIGINT, self._handle)
        _signal.signal(AGAIN, self._handle_again)

    @staticmethod
    def cancel_timers() -> None:
        """Stop the timers that a cell left behind: their signal would hit the guest itself, or end the process."""
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)

    def run(self, call: Callable[[], Value]) -> Value:
        """Call with interrupts on. They are off again when this returns or raises.

        A signal handler runs when a function is entered, after a call and at a loop's jump back. None of these lies
        between the end of ``call`` and the store that disarms, so that the caller is never hit.
        """
        self.fired = False
        self._pending = False
        try:
            self._armed = True
            return call()
        finally:
            self._armed = False

    def was_ignored(self, kind: type[BaseException]) -> bool:
        """Take note of an exception that Python could raise to nobody; whether it was an interrupt."""
        if not issubclass(kind, KeyboardInterrupt) or not self.fired:
            return False
        self.fired = False
        return True

    @property
    def is_pending(self) -> bool:
        """Whether an interrupt waits for the end of a shielded section."""
        return self._pending

    def __enter__(self) -> None:
        """Hold interrupts back in the main thread."""
        if threading.get_ident() == self._main:
            self._shields += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if threading.get_ident() != self._main:
            return
        self._shields -= 1
        if self._shields == 0 and self._pending:
            self._pending = False
            if self._armed:
                self.fired = True
                raise KeyboardInterrupt

    def _note_main(self) -> None:
        # In a child, the thread that forked is the main one.
        self._main = threading.get_ident()

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._shields:
            self._pending = True
            return
        self.fired = True
        raise KeyboardInterrupt

    def _handle_again(self, number: int, frame: FrameType | None) -> None:
        # Code that handles SIGINT in its own way, or waits for it, is left to it.
        is_ours = _signal.getsignal(_signal.SIGINT) == self._handle
        is_blocked = _signal.SIGINT in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        if is_ours and not is_blocked and not self.fired and not self._pending:
            self._handle(number, frame)
