"""The guest's entry: takes requests off the control socket, runs their cells, sends the results."""

import faulthandler
import multiprocessing
import os
import random
import select
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from . import mappings, notebook, sharing, tracebacks
from .cells import Cells
from .channels import Channels
from .children import Children
from .descriptors import move_high
from .display import Displays
from .figures import Figures
from .frames import FrameBuffer, FrameError
from .interrupts import Interrupts
from .limits import MAX_REQUEST
from .warmup import prepare

__all__ = ["prepare", "serve", "share"]

#: The real one: for user code it is replaced by one that flushes, which could wait for a thread.
_exit = os._exit
#: The exit status when the guest itself failed, with the traceback on descriptor 2.
INTERNAL_ERROR_STATUS = 70
#: The guest itself needs some depth; code that lowers the limit gets this one for its next cell.
LEAST_RECURSION = 1000
#: Seconds without a request after which an interpreter counts as idle.
IDLE_SECONDS = 0.5
#: Words of 32 bits in the state of NumPy's global generator, the Mersenne Twister.
_STATE_WORDS = 624
#: Bytes read from the control socket at a time.
READ_SIZE = 64 * 1024


def share() -> None:
    """What a zygote does when all that its sessions are to have in common is there.

    Where some of it cannot be done, sessions take more memory and more time to fork, and that is all.
    """
    # A class's attributes are remembered in a table, and who takes another one's place there lets go of its name: a
    # session would write to the pages of names that it never asked for.
    sys._clear_type_cache()  # noqa: SLF001  # documented
    with suppress(OSError):
        mappings.join()
    with suppress(OSError):
        sharing.move()


def serve(control: socket.socket) -> NoReturn:
    """Serve requests until the host closes the control socket, then end the process.

    Expects an isolated process of its own: descriptor 0 is /dev/null, 1 and 2 are pipes to the host, ``control`` a
    connected stream socket, and the working directory the user's data.
    """
    runner = Runner(str(Path.cwd()))
    runner.attach(control)
    runner.serve()


class Runner:
    """One interpreter and its way to the host. It is made once, in the zygote; each session attaches its own copy."""

    def __init__(self, data_directory: str) -> None:
        self._data_directory = data_directory
        self._interrupts = Interrupts()
        self._channels = Channels(self._interrupts)
        displays = Displays(self._channels.send_display)
        figures = Figures(displays)
        self._cells = Cells(displays, figures, self._interrupts, data_directory)
        notebook.install(displays, figures)
        self._children = Children(self._channels, self._interrupts)
        self._waiting = select.poll()
        #: What requests are read into. Had beforehand, since code may have used up all the memory there is.
        self._room = memoryview(bytearray(READ_SIZE))
        self._is_installed = False
        #: A cell has run since memory was given back. Before the first one, what it will write to is best kept.
        self._has_run = False

    def install(self) -> None:
        """Put in place what user code meets: handlers, hooks, and functions that flush before another process prints.

        `attach` sees to it. A zygote does it once for all its sessions; it must not fork or leave by those functions.
        """
        if self._is_installed:
            return
        self._is_installed = True
        _reseed()  # for what a first call of it loads
        self._children.install()
        self._interrupts.install()
        _install_hooks(self._data_directory, self._interrupts)

    def attach(self, control: socket.socket) -> None:
        """Do ahead all that needs nothing of the session: clients wait for what is left to `serve`.

        For a process that waits for its session, before it is confined; its directories need not be there. No thread is
        started, and nothing is printed.
        """
        # Out of reach of code that closes or replaces low descriptors by number.
        #: The way to the host.
        self.control = socket.socket(fileno=move_high(control.fileno()))
        control.close()
        self._waiting.register(self.control, select.POLLIN)
        _reseed()
        self._channels.open(self.control)
        self.install()

    def serve(self, limit: Callable[..., None] | None = None, *, rehearse: bool = False) -> NoReturn:
        """Send ``ready`` and serve until the socket ends or breaks.

        ``limit`` takes the fields of a frame of limits. Who has the time to ``rehearse`` first has a faster first cell.
        """
        status = 0
        try:
            if rehearse:
                self._rehearse()
            self._channels.greet()
            self._serve(limit)
        except (OSError, FrameError):
            status = 1  # the host is gone, or is not one
        except BaseException:
            # Whatever it was, nothing may return into the process that this one was forked from.
            status = INTERNAL_ERROR_STATUS
            with suppress(Exception):  # user code may have broken that, too
                os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        # Without finalization: threads and exit handlers of the user's may last forever.
        _exit(status)

    def _serve(self, limit: Callable[..., None] | None) -> None:
        buffer = FrameBuffer(MAX_REQUEST, 0)
        while data := self._receive():
            for header, _ in buffer.feed(data):
                kind = header.pop("type")
                if kind == "execute":
                    self._execute(header["id"], header["code"])
                elif kind == "limits" and limit is not None:
                    limit(**header)
                else:
                    raise FrameError(f"a frame of the unknown type {kind!r}")

    def _rehearse(self) -> None:
        """Go the way of a request with one that does next to nothing, and of which nobody hears.

        What every cell writes to is shared with the zygote until the first one does, page by page; and so nobody waits
        for that.
        """
        modules = [name for name in ("numpy", "pandas") if name in sys.modules]
        self._channels.begin(0)
        self._cells.rehearse("\n".join([f"import {name}" for name in modules] + ["print('', end='')"]))
        self._channels.finish(None)

    def _receive(self) -> bytes:
        """What the host sends next. While there is nothing, memory is given back, once after each cell."""
        if self._has_run and not self._waiting.poll(IDLE_SECONDS * 1000):
            self._has_run = False
            sharing.give_back(self._channels.threads)
        return bytes(self._room[: self.control.recv_into(self._room)])

    def _execute(self, request: int, code: str) -> None:
        self._has_run = True
        self._channels.begin(request)
        self._interrupts.install()
        outcome = self._cells.run(code)
        self._interrupts.cancel_timers()
        if sys.getrecursionlimit() < LEAST_RECURSION:
            sys.setrecursionlimit(LEAST_RECURSION)
        self._channels.finish(
            {"status": outcome.status, "error": outcome.error, "out_of_memory": outcome.out_of_memory}
        )
        if self._channels.in_child:
            # Code called os.fork() and let both processes run on. There is one interpreter, and it is the parent.
            _exit(0 if outcome.status == "ok" else 1)
        self._children.reap_orphans()


def _reseed() -> None:
    """Give this session random numbers of its own: its siblings were forked with the same state."""
    random.seed()
    # The key that processes of one session show each other, and the names of temporary files.
    multiprocessing.current_process().authkey = os.urandom(32)
    tempfile._name_sequence = None  # type: ignore[attr-defined]  # noqa: SLF001  # no public way
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        # All of its state, which takes less than to make that out of a seed.
        state = numpy.frombuffer(os.urandom(_STATE_WORDS * 4), dtype=numpy.uint32)
        numpy.random.set_state(("MT19937", state, _STATE_WORDS))


def _install_hooks(data_directory: str, interrupts: Interrupts) -> None:
    sys.argv = [""]
    # The zygote's folder is not here; child processes that import matplotlib want one that can be written.
    os.environ["MPLCONFIGDIR"] = str(Path(tempfile.gettempdir(), "matplotlib"))
    if "" not in sys.path:
        # Last, so that a data file named like a module of the standard library does not hide it.
        sys.path.append("")
    faulthandler.enable(file=2, all_threads=False)

    def report_thread(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
            return
        name = failure.thread.name if failure.thread is not None else "unknown"
        sys.stderr.write(f"Exception in thread {name}:\n{tracebacks.render(failure.exc_value, data_directory)}\n")

    threading.excepthook = report_thread

    def report_ignored(ignored: "sys.UnraisableHookArgs") -> None:
        if not interrupts.was_ignored(ignored.exc_type):
            sys.__unraisablehook__(ignored)

    sys.unraisablehook = report_ignored
