"""Compiles and executes cells, one after another, in the one ``__main__`` module."""

import __future__

import ast
import asyncio
import builtins
import inspect
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from importlib.machinery import FileFinder
from types import CodeType, ModuleType
from typing import Any

from .display import Displays
from .figures import Figures
from .interrupts import Interrupts
from .magics import Magics
from .plaintext import class_name
from .tracebacks import describe, is_refused_memory, register_cell

#: The flags of ``from __future__ import``, which stay on in later cells.
_FUTURE_FLAGS = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})

UNKNOWN_TEXT = "The code raised an error that cannot be shown."
INTERRUPTED_TEXT = "The execution was interrupted."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended: ``ok``, ``error`` or ``interrupted``, and the error as a result frame carries it."""

    status: str
    error: dict[str, str] | None = None
    #: The error is that memory was refused.
    out_of_memory: bool = False


class Cells:
    """The interpreter's state: the namespace, the event loop and the number of the last cell."""

    def __init__(self, displays: Displays, figures: Figures, interrupts: Interrupts, data_directory: str) -> None:
        self._displays = displays
        self._figures = figures
        self._interrupts = interrupts
        self._data_directory = data_directory
        # A real module: pickle, dataclasses and multiprocessing look names up in sys.modules["__main__"].
        self._module = ModuleType("__main__", None)
        self._module.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = self._module
        self._magics = Magics(self._module.__dict__, displays)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._count = 0

    def rehearse(self, source: str) -> None:
        """Run a cell that does not count and leaves nothing."""
        names = dict(self._module.__dict__)
        self.run(source)
        self._module.__dict__.clear()
        self._module.__dict__.update(names)
        self._count = 0

    def run(self, source: str) -> Outcome:
        """Execute one cell: show its last expression and its figures, and tell how it ended."""
        self._count += 1
        # Warnings are shown once a line, and the lines of every cell are counted anew.
        self._module.__dict__.pop("__warningregistry__", None)
        # The host may have put files in, which changes nothing that Python looks at to find modules anew.
        if isinstance(finder := sys.path_importer_cache.get(self._data_directory), FileFinder):
            finder.invalidate_caches()
        # As Python's own reader does it, so that everybody counts the same lines.
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        name = register_cell(self._count, source)
        try:
            self._interrupts.run(partial(self._run, source, name))
        except BaseException as error:
            try:
                return self._failed(error)
            except Exception:
                # An error that fails while it is looked at; its class is all that can be told.
                return Outcome("error", {"name": class_name(error), "value": UNKNOWN_TEXT, "traceback": UNKNOWN_TEXT})
        return Outcome("ok")

    def _run(self, source: str, name: str) -> None:
        self._figures.hook()
        try:
            for code in self._compile(source, name):
                value = self._evaluate(code)
                if value is not None:
                    self._show_last(value)
        except BaseException:
            self._figures.discard_all()
            raise
        self._figures.show_all()

    def _compile(self, source: str, name: str) -> list[CodeType]:
        """The cell as code: all but the last expression, and the last expression alone unless ``;`` follows it."""
        source, tree = self._magics.parse(source, name)
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, ast.Expr) or _ends_with_semicolon(source, last):
            return [self._code(tree, name, "exec")]
        expression = ast.Expression(last.value)
        del tree.body[-1]
        statements = [self._code(tree, name, "exec")] if tree.body else []
        return [*statements, self._code(expression, name, "eval")]

    def _code(self, tree: ast.Module | ast.Expression, name: str, mode: str) -> CodeType:
        code: CodeType = compile(tree, name, mode, flags=self._flags, dont_inherit=True)
        self._flags |= code.co_flags & _FUTURE_FLAGS
        return code

    def _evaluate(self, code: CodeType) -> object:
        value = eval(code, self._module.__dict__)  # noqa: S307  # running the user's code is what this is for
        return self._await(value) if code.co_flags & inspect.CO_COROUTINE else value

    def _await(self, coroutine: Coroutine[Any, Any, object]) -> object:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        loop = self._loop
        asyncio.set_event_loop(loop)
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except BaseException:
            # An interrupt or sys.exit() leaves the loop, not the task. End the task too, so that its cleanup runs.
            if not task.done() and not loop.is_running():
                task.cancel()
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise

    def _show_last(self, value: object) -> None:
        self._module.__dict__["_"] = value
        if self._figures.is_figure(value):
            self._figures.show(value)
        else:
            self._displays.show(value)

    def _failed(self, error: BaseException) -> Outcome:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return Outcome("ok")
        described = describe(error, self._data_directory)
        if isinstance(error, SystemExit):
            described["value"] = f"The code called sys.exit({error.code!r})." if described["value"] else ""
        if isinstance(error, KeyboardInterrupt) and self._interrupts.fired:
            return Outcome("interrupted", described | {"value": described["value"] or INTERRUPTED_TEXT})
        return Outcome("error", described, is_refused_memory(error))


def _ends_with_semicolon(source: str, last: ast.Expr) -> bool:
    lines = source.encode().split(b"\n")
    rest = lines[(last.end_lineno or 1) - 1][last.end_col_offset or 0 :]
    return rest.lstrip().startswith(b";")
