"""The guest's entry: takes requests off the control socket, runs their cells, sends the results."""

import faulthandler
import os
import random
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from . import notebook, tracebacks
from .cells import Cells
from .channels import Channels, move_high
from .display import Displays
from .figures import Figures
from .frames import FrameBuffer, FrameError, encode
from .interrupts import Interrupts
from .limits import MAX_REQUEST
from .warmup import prepare

__all__ = ["prepare", "serve"]

#: Bytes read from the control socket at a time.
READ_SIZE = 64 * 1024


def serve(control: socket.socket) -> NoReturn:
    """Serve requests until the host closes the control socket, then end the process.

    Expects an isolated process of its own: descriptor 0 is /dev/null, 1 and 2 are pipes to the host, ``control`` a
    connected stream socket, and the working directory the user's data.
    """
    # Out of reach of code that closes or replaces low descriptors by number.
    high = socket.socket(fileno=move_high(control.fileno()))
    control.close()
    Runner(high, str(Path.cwd())).serve()


class Runner:
    """One interpreter and its way to the host."""

    def __init__(self, control: socket.socket, data_directory: str) -> None:
        self._control = control
        _reseed()
        interrupts = Interrupts()
        self._interrupts = interrupts
        self._channels = Channels(control, interrupts)
        self._displays = Displays(self._channels.send)
        figures = Figures(self._displays)
        self._cells = Cells(self._displays, figures, interrupts, data_directory)
        notebook.install(self._displays, figures)
        _install_hooks(self._channels.flush, data_directory)
        interrupts.install()

    def serve(self) -> NoReturn:
        """Send ``ready`` and serve until the socket ends or breaks."""
        status = 0
        try:
            self._channels.send(encode({"type": "ready"}))
            self._serve()
        except (OSError, FrameError):
            status = 1  # the host is gone, or is not one
        # Without finalization: threads and exit handlers of the user's may last forever.
        os._exit(status)

    def _serve(self) -> None:
        buffer = FrameBuffer(MAX_REQUEST, 0)
        while data := self._control.recv(READ_SIZE):
            for header, _ in buffer.feed(data):
                if header["type"] != "execute":
                    raise FrameError(f"a frame of the unknown type {header['type']!r}")
                self._execute(header["id"], header["code"])

    def _execute(self, request: int, code: str) -> None:
        self._displays.request = request
        before = _cpu_seconds()
        self._interrupts.install()
        outcome = self._cells.run(code)
        self._displays.request = None
        self._channels.finish()
        if self._channels.in_child:
            # Code called os.fork() and let both processes run on. There is one interpreter, and it is the parent.
            os._exit(0 if outcome.status == "ok" else 1)
        self._channels.send(
            encode(
                {
                    "type": "result",
                    "id": request,
                    "status": outcome.status,
                    "error": outcome.error,
                    "cpu_seconds": round(_cpu_seconds() - before, 6),
                }
            )
        )


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _reseed() -> None:
    """Give this session random numbers of its own: its siblings were forked with the same state."""
    random.seed()
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _install_hooks(flush: Callable[[], None], data_directory: str) -> None:
    sys.argv = [""]
    if "" not in sys.path:
        # Last, so that a data file named like a module of the standard library does not hide it.
        sys.path.append("")
    faulthandler.enable(file=2, all_threads=False)

    def report_thread(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
            return
        name = failure.thread.name if failure.thread is not None else "unknown"
        print(f"Exception in thread {name}:", file=sys.stderr)
        print(tracebacks.render(failure.exc_value, data_directory), file=sys.stderr)

    threading.excepthook = report_thread
    # What was printed before a child process starts comes before what the child prints.
    for module, name in (
        (subprocess, "_fork_exec"),
        (os, "posix_spawn"),
        (os, "posix_spawnp"),
        (os, "system"),
    ):
        function = getattr(module, name, None)
        if function is not None:
            setattr(module, name, _after(flush, function))


def _after(first: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def both(*arguments: Any, **options: Any) -> Any:
        first()
        return function(*arguments, **options)

    return both
