"""Structured logs on standard error: JSON for machines, colors for a terminal.

What is logged names things by id and measures them; it never holds what users wrote. Errors of the standard library and
of packages like to quote the value that they met, so a traceback is logged as its frames and types, without messages.
"""

import logging
import sys
import traceback
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]


def configure_logs(level: LogLevel, log_format: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Set up the logs of the process: ours from ``level`` on, those of packages from warnings on.

    ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
    """
    renderer: Processor = structlog.processors.JSONRenderer()
    if is_for_people(log_format, stream):
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _frames_only,
    ]
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(allow=()), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def is_for_people(log_format: LogFormat, stream: TextIO = sys.stderr) -> bool:
    """Whether people read the stream, so that a plain sentence may stand in it."""
    return log_format == "console" or (log_format == "auto" and stream.isatty())


def _frames_only(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    elif isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[1] is not None:
        event["traceback"] = frames_of(info)
    return event


def frames_of(info: ExcInfo) -> list[str]:
    """Where an exception came from and what it is, the causes first, without any message."""
    lines: list[str] = []
    error: BaseException | None = info[1]
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for error in reversed(chain):
        lines += [
            f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}")
    return lines
