"""The three ways out of the guest (stdout, stderr, control) and the order between them.

They are separate pipes and a socket, so the host can only tell the order of what it reads at different times. Before
the guest writes to a pipe it flushes what went another way, and waits, for a bounded time, until the host has read it.
Before it sends a frame it only flushes: the host reads what lies in the pipes before it takes a frame.
"""

import ctypes
import fcntl
import io
import os
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .descriptors import move_high
from .flusher import Flusher
from .frames import encode
from .interrupts import Interrupts
from .streams import OutputStream

#: Seconds to wait at most until the host has read one channel, before another is used.
DRAIN_SECONDS = 0.1
#: Looks at the channel, each followed by giving up the processor, before the wait sleeps in between.
DRAIN_SPINS = 60


class _Pipe:
    """An output pipe: the standard descriptor that user code sees, and a copy it does not."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._copy = move_high(descriptor)
        self._identity = self._identify(self._copy)

    def drained(self) -> bool:
        return _unread(self._copy, termios.FIONREAD) == 0

    @property
    def is_in_place(self) -> bool:
        """Whether the standard descriptor is the pipe: user code may have closed or replaced it."""
        try:
            return self._identify(self.descriptor) == self._identity
        except OSError:
            return False

    def restore(self) -> None:
        """Make the standard descriptor the pipe again."""
        os.dup2(self._copy, self.descriptor, inheritable=True)

    @staticmethod
    def _identify(descriptor: int) -> tuple[int, int]:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino


class Channels:
    """Owns the output streams and the control socket's sending side."""

    stdout: OutputStream
    stderr: OutputStream
    _control: socket.socket
    _pipes: tuple[_Pipe, _Pipe]

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._lock = threading.RLock()
        self._flusher = Flusher(self._flush_both)
        self._flush_native = _native_flush()
        #: What was written to last, as something to wait for; None when all was read.
        self._last: Callable[[], bool] | None = None
        #: The request whose cell runs.
        self._request: int | None = None
        #: This process was forked by user code; it is not the one that the host knows.
        self.in_child = False

    def open(self, control: socket.socket) -> None:
        """Begin to speak with the host: by descriptors 1 and 2, and by this socket."""
        self._control = control
        self._pipes = (_Pipe(1), _Pipe(2))
        self._open_streams()
        _restore_stdin()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._lock.release, after_in_child=self._after_fork_in_child
        )

    def switch_to(self, stream: OutputStream) -> None:
        """Make a stream the current channel: what was written to the others before is read first."""
        with self._interrupts, self._lock:
            other = self.stderr if stream is self.stdout else self.stdout
            _flush(other)
            self._drain()
            other.fall_behind()
            stream.behind = False
            self._last = self._pipes[0 if stream is self.stdout else 1].drained

    def written(self) -> None:
        """Have the text flushed soon."""
        with self._interrupts:
            self._flusher.wake()

    def greet(self) -> None:
        """Tell the host that requests are welcome."""
        # First, so that the host knows the flusher's thread for one of the guest's own, and no cell waits for it.
        self.written()
        with self._interrupts, self._lock:
            self._send({"type": "ready"})

    def begin(self, request: int) -> None:
        """Frames belong to this request from now on."""
        if self._last == self._control_drained:
            self._last = None  # the host had read the last result when it sent the request
        self._request = request

    def send_display(self, header: dict[str, Any], body: bytes) -> None:
        """Send a display after all that was printed before it. Without a request, or in a forked child, it is lost."""
        with self._interrupts, self._lock:
            if self._request is not None and not self.in_child:
                self._send(header | {"id": self._request}, body)

    @property
    def threads(self) -> int:
        """The threads that this process has if user code has none."""
        return 1 + self._flusher.is_alive

    def flush(self) -> None:
        """Pass on what was printed so far."""
        with self._interrupts, self._lock:
            self._flush_both()

    def give_way(self) -> None:
        """Let a child process write to the same pipes: what was printed so far is read first."""
        with self._interrupts, self._lock:
            self._flush_both()
            _wait(self._all_drained)
            self._last = None

    def take_back(self) -> None:
        """A child process may have written to the pipes: that is read first, before anything else is written."""
        with self._interrupts, self._lock:
            self.stdout.fall_behind()
            self.stderr.fall_behind()
            self._last = self._all_drained

    def finish(self, result: dict[str, Any] | None) -> None:
        """Flush all output, C's too, undo what user code did to the streams, and send the result, if there is one."""
        with self._interrupts, self._lock:
            frame = b""
            if result is not None and not self.in_child:
                frame = encode({"type": "result", "id": self._request} | result)
            if displaced := [pipe for pipe in self._pipes if not pipe.is_in_place]:
                self._flush_both()  # to where it was printed
                for pipe in displaced:
                    pipe.restore()
            self._take_back_names()
            # Before the flush: what another thread prints after it is flushed in its time.
            self._flusher.rest()
            # The host wakes up with the first byte of this, and is to find all the rest when it looks.
            if not self._flush_both() or self.stdout.is_broken() or self.stderr.is_broken():
                self._open_streams()
            self._flush_native()
            if frame:
                self._control.sendall(frame)
            self._last = self._control_drained if frame else None
            # From here on nobody waits.
            _restore_stdin()
            self.stdout.restore()
            self.stderr.restore()
            self.stdout.fall_behind()
            self.stderr.fall_behind()
            self._request = None

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        self._flush_both()
        self.stdout.fall_behind()
        self.stderr.fall_behind()
        self._control.sendall(encode(header, body))
        self._last = self._control_drained

    def _drain(self) -> None:
        if self._last is not None:
            _wait(self._last)
            self._last = None

    def _control_drained(self) -> bool:
        return _unread(self._control.fileno(), termios.TIOCOUTQ) == 0

    def _all_drained(self) -> bool:
        return all(pipe.drained() for pipe in self._pipes) and (self.in_child or self._control_drained())

    def _flush_both(self) -> bool:
        with self._lock:
            return all([_flush(self.stdout), _flush(self.stderr)])

    def _open_streams(self) -> None:
        self.stdout = OutputStream(1, "<stdout>", self)
        self.stderr = OutputStream(2, "<stderr>", self)
        sys.stdout = sys.__stdout__ = self.stdout  # type: ignore[misc]  # the docs call them final; the old ones are gone
        sys.stderr = sys.__stderr__ = self.stderr  # type: ignore[misc]

    def _take_back_names(self) -> None:
        """Make `sys.stdout` and `sys.stderr` the streams again, should user code have put others there."""
        others: list[Any] = [getattr(sys, "stdout", None), getattr(sys, "stderr", None)]
        if others[0] is self.stdout and others[1] is self.stderr:
            return
        self._flush_both()  # what was printed before the others came
        for other in others:
            if other is not self.stdout and other is not self.stderr:
                # An object of the user's own, which may be anything; what it cannot flush is lost with it.
                with suppress(Exception):
                    other.flush()
        # And now, since they may print once more when they go.
        sys.stdout, sys.stderr = self.stdout, self.stderr

    def _before_fork(self) -> None:
        # The child must find the lock free and the buffers empty. The flusher ends, so that Python does not warn of a
        # second thread; the next write starts another.
        self._flusher.stop()
        self._lock.acquire()
        self._flush_both()

    def _after_fork_in_child(self) -> None:
        self._flusher.forget()
        # Children print, but they do not speak with the host: a frame of theirs would mix with the parent's.
        self.in_child = True
        try:
            # Another thread of the parent may have been in the middle of a write.
            # By lines, since pools end their workers by a signal, which would take what waits in a buffer with it.
            with suppress(OSError):  # user code closed the descriptor
                self.stdout = self._inherit(self.stdout)
                self.stderr = self._inherit(self.stderr)
            self._control.close()
            self._last = None
        finally:
            self._lock.release()

    @staticmethod
    def _inherit(stream: OutputStream) -> OutputStream:
        heir = stream.make_heir()
        for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
            if getattr(sys, name, None) is stream:
                setattr(sys, name, heir)
        return heir


def _restore_stdin() -> None:
    try:
        os.fstat(0)
    except OSError:
        null = os.open(os.devnull, os.O_RDONLY)
        if null != 0:
            os.dup2(null, 0)
            os.close(null)
    stdin = getattr(sys, "stdin", None)
    if not isinstance(stdin, io.TextIOBase) or stdin.closed or stdin is not sys.__stdin__:
        stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # it stays open as long as the process
        sys.stdin = sys.__stdin__ = stdin  # type: ignore[misc]  # as above


def _flush(stream: OutputStream) -> bool:
    try:
        stream.flush_all()
    except (AttributeError, OSError, ValueError):
        return False  # user code closed the descriptor or took the stream apart; the end of the cell mends it
    return True


def _unread(descriptor: int, request: int) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, request, bytes(4)), sys.byteorder)
    except OSError:
        return 0  # nothing that could be waited for


def _wait(drained: Callable[[], bool]) -> None:
    spins = 0
    pause = 0.00005
    deadline = 0.0
    while not drained():
        spins += 1
        if spins < DRAIN_SPINS:
            os.sched_yield()
            continue
        now = time.monotonic()
        deadline = deadline or now + DRAIN_SECONDS
        if now > deadline:
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.002)


def _native_flush() -> Callable[[], None]:
    """A function that flushes C's stdio, made line-buffered as far as possible so that its output is live."""
    try:
        library = ctypes.CDLL(None)
        fflush = library.fflush
        setvbuf = library.setvbuf
        output = ctypes.c_void_p.in_dll(library, "stdout")
    except (OSError, AttributeError, ValueError):
        return lambda: None
    setvbuf(output, None, 1, 0)  # 1 is _IOLBF

    def flush() -> None:
        fflush(None)

    return flush
