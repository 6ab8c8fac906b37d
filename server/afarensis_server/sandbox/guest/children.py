"""The processes that user code starts: output in order with theirs, and none left behind as zombies."""

import _posixsubprocess
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from .interrupts import Interrupts

#: The real one: for user code it is replaced by one that flushes.
_exit = os._exit
#: The functions that start processes, as (module, name). What they return is the child's id, or a tuple with it.
_STARTING: tuple[tuple[ModuleType, str], ...] = (
    (_posixsubprocess, "fork_exec"),
    (subprocess, "_fork_exec"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "fork"),
    (os, "forkpty"),
)
#: Those that return when the process that they started has ended.
_RUNNING: tuple[tuple[ModuleType, str], ...] = ((os, "system"),)
#: The functions that print as another program or end this one without flushing.
_LEAVING: tuple[tuple[ModuleType, str], ...] = (
    (os, "_exit"),
    (os, "abort"),
    (os, "execv"),
    (os, "execve"),
)


class Output(Protocol):
    """What the children's output is kept in order with."""

    def flush(self) -> None:
        """Pass on what was printed so far."""

    def give_way(self) -> None:
        """A child process is about to write."""

    def take_back(self) -> None:
        """A child process may have written."""


class Children:
    """Knows the children that user code started itself and may wait for.

    In a process namespace of its own the guest is process 1, the parent of all whose own parent ended. Nobody waits for
    those but the guest; it must not wait for the others, or their exit status is lost to the code that wants it.
    """

    def __init__(self, output: Output, interrupts: Interrupts) -> None:
        self._output = output
        self._interrupts = interrupts
        self._own: set[int] = set()

    def install(self) -> None:
        """Flush what was printed before a child prints, or before the process ends, and note each child."""
        for names, call in ((_STARTING, self._start), (_RUNNING, self._run), (_LEAVING, self._leave)):
            for module, name in names:
                function = getattr(module, name, None)  # not every Python has every one
                if function is not None:
                    setattr(module, name, wraps(function)(partial(call, function)))

    def reap_orphans(self) -> None:
        """Take the exit status of ended processes that were left to the guest."""
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return
        except ChildProcessError:
            self._own.clear()
            return
        children = _children()
        for child in children - self._own:
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
        self._own &= children

    def _leave(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._output.flush()
        return function(*arguments, **options)

    def _run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._output.give_way()
        try:
            return function(*arguments, **options)
        finally:
            self._output.take_back()

    def _start(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Start a process and note it. An interrupt waits until that is done: at-fork hooks would swallow it."""
        self._output.give_way()
        # Looked up once, since in a child the thread that forked is the main one.
        is_main = threading.get_ident() == threading.main_thread().ident
        with self._interrupts if is_main else nullcontext():
            result = function(*arguments, **options)
            child: int = result[0] if isinstance(result, tuple) else result
            if child:
                self._own.add(child)
                self._output.take_back()
            elif is_main and self._interrupts.is_pending:
                # The parent is interrupted before it learns of this child, which nobody would wait for or end.
                _exit(1)
        return result


def _children() -> set[int]:
    """The children of the main thread, which is the one that orphans are given to."""
    process = os.getpid()
    try:
        return {int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()}
    except OSError:
        return set()  # no /proc, or a kernel without this file
