"""Flushes what was printed while the code goes on."""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .descriptors import move_high

#: Seconds a text may lie in a buffer.
FLUSH_SECONDS = 0.02
#: Bytes of the flusher's stack: it calls next to nothing.
FLUSHER_STACK = 256 * 1024
#: libc, called without giving up the interpreter: nothing here waits.
_libc = ctypes.PyDLL(None)


class Flusher:
    """A thread that flushes the streams some time after the first write, and sleeps while there is nothing to flush.

    It sleeps on a timer of the kernel's. So setting it costs a system call, and a cell that ends in time never has two
    threads compete for the interpreter.
    """

    def __init__(self, flush: Callable[[], object]) -> None:
        self._flush = flush
        self._thread: threading.Thread | None = None
        self._timer = -1
        self._halted = False

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Have the streams flushed soon."""
        if self._thread is None or not self._thread.is_alive() or not _set_timer(self._timer, FLUSH_SECONDS):
            self._start()
            _set_timer(self._timer, FLUSH_SECONDS)

    def rest(self) -> None:
        """There is nothing left to flush."""
        _set_timer(self._timer, 0.0)

    def stop(self) -> None:
        """End the thread; the next `wake` starts another."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            self._halted = True
            if _set_timer(self._timer, 1e-6):
                thread.join()

    def _start(self) -> None:
        self._close()
        self._halted = False
        self._timer = _new_timer()
        thread = threading.Thread(target=self._run, args=(self._timer,), name="afarensis-flusher", daemon=True)
        size = threading.stack_size(FLUSHER_STACK)
        try:
            thread.start()
        except RuntimeError:
            return  # no more threads allowed: the text leaves when the buffer is full or the cell ends
        finally:
            threading.stack_size(size)
        self._thread = thread

    def _run(self, timer: int) -> None:
        # Only as long as it is this thread's: user code may close descriptors by number.
        while timer == self._timer:
            try:
                os.read(timer, 8)
            except OSError:
                return
            if self._halted:
                return
            self._flush()

    def _close(self) -> None:
        timer, self._timer = self._timer, -1
        if timer >= 0:
            with suppress(OSError):
                os.close(timer)


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
    setting = _TimerSetting(0, 0, int(seconds), int(seconds % 1 * 1e9))
    return timer >= 0 and _libc.timerfd_settime(timer, 0, ctypes.byref(setting), None) == 0
