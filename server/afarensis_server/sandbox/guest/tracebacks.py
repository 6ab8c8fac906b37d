"""Errors of the user's code as text: the user's frames only, with their source lines."""

import linecache
import os
import re
import traceback
from collections.abc import Iterator
from opcode import opmap
from types import TracebackType
from typing import Any

from .limits import MAX_ERROR_NAME, MAX_ERROR_VALUE, MAX_TRACEBACK, clean, shorten, shorten_middle
from .plaintext import class_name

_RAISE = opmap["RAISE_VARARGS"]

#: How a cell's file name begins; a number follows.
CELL_PREFIX = "Cell "
_CELL_LINE = re.compile(rf'(?<=[ ])File "({CELL_PREFIX}\d+)"(?=, line)')


def register_cell(number: int, source: str) -> str:
    """Make a cell's source known to tracebacks, warnings and ``inspect``. Returns the cell's file name."""
    name = f"{CELL_PREFIX}{number}"
    cache: object = linecache.cache
    if not isinstance(cache, dict):
        linecache.cache = {}  # user code may do anything
    # Without a modification time linecache keeps the entry, though there is no such file.
    linecache.cache[name] = (len(source), None, [f"{line}\n" for line in source.split("\n")], name)
    return name


def describe(error: BaseException, data_directory: str) -> dict[str, str]:
    """The error's name, value and traceback, as a result frame carries them.

    Frames count as the user's when they are in a cell or in a file below ``data_directory``.
    """
    return {
        "name": shorten(clean(class_name(error)), MAX_ERROR_NAME),
        "value": shorten(clean(_value(error)), MAX_ERROR_VALUE),
        "traceback": shorten_middle(clean(render(error, data_directory)), MAX_TRACEBACK),
    }


def is_refused_memory(error: BaseException) -> bool:
    """Whether memory was refused: a MemoryError that comes from an allocation, not from a ``raise`` statement."""
    trace = error.__traceback__
    if not isinstance(error, MemoryError) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] != _RAISE


def render(error: BaseException, data_directory: str, trace: TracebackType | None = None) -> str:
    """The traceback as Python prints it, without the frames of libraries and of the guest."""
    try:
        summary = traceback.TracebackException(
            type(error), error, trace or error.__traceback__, lookup_lines=False, compact=True
        )
        for part in _chain(summary):
            part.stack = _UserFrames(frame for frame in part.stack if _is_users(frame.filename, data_directory))
        _forget_internals(summary)
        text = "".join(_lines(summary))
    except Exception as failure:
        # Exceptions are user code too: their __str__, their notes, their attributes may all fail.
        return f"{class_name(error)}: (its traceback cannot be shown: {class_name(failure)})"
    return text.rstrip("\n")


def _forget_internals(summary: traceback.TracebackException) -> None:
    """Drop what a library handled within itself: a context without a user's frame, a cause that repeats the error."""
    for part in _chain(summary):
        if part.__context__ is not None and not part.__context__.stack:
            part.__context__ = None
        cause = part.__cause__
        if cause is not None and not cause.stack and str(cause) == str(part):
            part.__cause__ = None


def _value(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(this error cannot be shown as text)"


def _is_users(filename: str, data_directory: str) -> bool:
    return filename.startswith((CELL_PREFIX, data_directory + os.sep))


class _UserFrames(traceback.StackSummary):
    """Names cells the way people do: ``Cell 3, line 2``."""

    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **options: Any) -> str:
        # The options are Python 3.13's and later.
        return _rename(super().format_frame_summary(frame_summary, **options)).replace(", in <module>\n", "\n", 1)


def _rename(text: str) -> str:
    return _CELL_LINE.sub(r"\1", text, count=1)


def _lines(summary: traceback.TracebackException) -> Iterator[str]:
    for line in summary.format():
        if line.strip(" |+-\n") == "Traceback (most recent call last):" and not any(p.stack for p in _chain(summary)):
            continue
        yield _rename(line)


def _chain(summary: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """The error, its causes and contexts, and the members of groups."""
    todo = [summary]
    seen: set[int] = set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        todo += [one for one in (part.__cause__, part.__context__, *(part.exceptions or ())) if one is not None]
