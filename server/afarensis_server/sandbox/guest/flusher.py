"""Flushes what was printed while the code goes on."""

import _thread
import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Self

from .descriptors import move_high

#: Seconds a text may lie in a buffer.
FLUSH_SECONDS = 0.02
#: Bytes of the flusher's stack: it calls next to nothing.
FLUSHER_STACK = 256 * 1024
#: libc, called without giving up the interpreter: nothing here waits.
_libc = ctypes.PyDLL(None)


class Flusher:
    """Has the streams flushed some time after the first write, by a thread that sleeps until then."""

    def __init__(self, flush: Callable[[], object]) -> None:
        self._flush = flush
        #: Held while the thread is exchanged.
        self._lock = threading.Lock()
        self._sleeper: _Sleeper | None = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a thread now."""
        sleeper = self._sleeper
        return sleeper is not None and sleeper.is_alive

    def wake(self) -> None:
        """Have the streams flushed soon."""
        sleeper = self._sleeper
        if sleeper is not None and sleeper.is_alive and sleeper.set(FLUSH_SECONDS):
            return
        with self._lock:
            if self._sleeper is sleeper:  # else another thread was faster
                self._sleeper = _Sleeper.start(self._flush)
            sleeper = self._sleeper
        if sleeper is not None:
            sleeper.set(FLUSH_SECONDS)

    def rest(self) -> None:
        """There is nothing left to flush."""
        if (sleeper := self._sleeper) is not None:
            sleeper.set(0.0)

    def stop(self) -> None:
        """End the thread; the next `wake` starts another."""
        with self._lock:
            sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            sleeper.end()

    def forget(self) -> None:
        """Begin anew in a forked child, where there is no thread, and the lock may be held by one that is not there."""
        self._lock = threading.Lock()
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            sleeper.close()


class _Sleeper:
    """One thread, asleep on a timer of the kernel's.

    Setting that costs a system call, and a cell that ends in time never has two threads compete for the interpreter.
    The thread is a bare one: it starts with each session, and `threading` would count it among those of user code.
    """

    def __init__(self, flush: Callable[[], object]) -> None:
        self._flush = flush
        self._timer = _new_timer()
        self._is_to_end = False
        self._ident = 0
        #: Held as long as the thread is there.
        self._running = _thread.allocate_lock()

    @classmethod
    def start(cls, flush: Callable[[], object]) -> Self | None:
        """Start one; None when no more threads are allowed: text leaves with a full buffer or the cell then."""
        sleeper = cls(flush)
        size = _thread.stack_size(FLUSHER_STACK)
        sleeper._running.acquire()
        try:
            sleeper._ident = _thread.start_new_thread(sleeper._run, ())
        except RuntimeError:
            sleeper.close()
            return None
        finally:
            _thread.stack_size(size)
        return sleeper

    @property
    def is_alive(self) -> bool:
        return not self._is_to_end and self._running.locked()

    def set(self, seconds: float) -> bool:
        """Wake the thread after some time, or never (0); whether there is a timer. User code may have closed it."""
        return _set_timer(self._timer, seconds)

    def end(self) -> None:
        """End the thread, unless it is the one that asks."""
        self._is_to_end = True
        if self._ident != _thread.get_ident():
            # Again and again: a cell that ends meanwhile puts the timer to rest.
            while self._running.locked() and self.set(1e-6):
                if self._running.acquire(timeout=0.05):
                    self._running.release()

    def close(self) -> None:
        """Close the timer."""
        timer, self._timer = self._timer, -1
        if timer >= 0:
            with suppress(OSError):
                os.close(timer)

    def _run(self) -> None:
        try:
            while not self._is_to_end:
                try:
                    os.read(self._timer, 8)
                except OSError:
                    return
                if not self._is_to_end:
                    self._flush()
        finally:
            self.close()
            self._running.release()


class _TimerSetting(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = [
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    ]


def _new_timer() -> int:
    """A descriptor that can be read once the time that was set is over; -1 where there is none."""
    timer = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
    if timer < 0:
        return -1
    high = move_high(timer)
    os.close(timer)
    return high


def _set_timer(timer: int, seconds: float) -> bool:
    """Have a timer go off after some time, or never (0); whether it is one."""
    return timer >= 0 and _libc.timerfd_settime(timer, 0, _timer_setting(seconds), None) == 0


@cache
def _timer_setting(seconds: float) -> Any:
    return ctypes.byref(_TimerSetting(0, 0, int(seconds), int(seconds % 1 * 1e9)))
