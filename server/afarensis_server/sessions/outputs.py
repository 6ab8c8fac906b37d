"""Turns what a sandbox reports into what is stored: displays and files get ids, paths become absolute."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import structlog

from ..domain.executions import (
    DisplayItem,
    ExceededLimit,
    ExecutionEvent,
    ExecutionResult,
    FileItem,
    OutputItem,
    Representation,
)
from ..domain.files import File
from ..errors import DomainError
from ..files.service import Files
from ..sandbox.driver import DATA_DIRECTORY, Display, FileChange, FileChangeKind, Output, Result, SandboxSession
from ..sandbox.driver import ExecutionEvent as SandboxEvent

_log = structlog.get_logger(__name__)

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What of one execution is kept, and where."""

    #: Bytes up to which a representation is passed on inline; a larger one becomes a file. An image always becomes one.
    inline_bytes: int = 256 * 1024
    #: Files that are kept, and bytes of them in all.
    files: int = 1_000
    bytes: int = 1024 * 1024 * 1024
    #: Seconds that keeping them may take.
    seconds: float = 30.0


class _Budget:
    """What the files of one execution have taken so far, and what was refused for it."""

    def __init__(self, limits: OutputLimits) -> None:
        self._limits = limits
        self._files = 0
        self._bytes = 0
        self._seconds = 0.0
        #: The most that was asked for, by the name of the limit that refused it.
        self._asked: dict[str, int] = {}

    @contextmanager
    def spend(self, size_bytes: int) -> Iterator[None]:
        """Account for keeping a file of this size. Raises _OverBudgetError when there is no room for it."""
        limits = self._limits
        self._files += 1
        if self._files > limits.files:
            self._refuse("kept_files", self._files)
        if self._bytes + size_bytes > limits.bytes:
            self._refuse("kept_bytes", max(self._asked.get("kept_bytes", self._bytes), self._bytes) + size_bytes)
        if self._seconds >= limits.seconds:
            self._refuse("keep_seconds", math.ceil(self._seconds))
        self._bytes += size_bytes
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds += time.monotonic() - began

    @property
    def seconds_left(self) -> float:
        return self._limits.seconds - self._seconds

    def exceeded(self) -> tuple[ExceededLimit, ...]:
        """The limits that were met."""
        limits = self._limits
        allowed = {"kept_files": limits.files, "kept_bytes": limits.bytes, "keep_seconds": int(limits.seconds)}
        return tuple(ExceededLimit(name, allowed[name], asked) for name, asked in self._asked.items())

    def _refuse(self, name: str, asked: int) -> NoReturn:
        self._asked[name] = asked
        raise _OverBudgetError(name)


class _OverBudgetError(Exception):
    """A file is not kept, since its execution has had its share."""


class OutputKeeper:
    """Keeps the outputs of one session: stores files under ids that stay the same while the content does.

    Unless the file was deleted meanwhile: then what code writes is a new one.
    """

    def __init__(self, project: str, session: SandboxSession, files: Files, limits: OutputLimits) -> None:
        self._project = project
        self._session = session
        self._files = files
        self._limits = limits
        self._files_shown = 0
        self._budget = _Budget(limits)
        #: How many files of the execution were not kept, by the error.
        self._missed: Counter[str] = Counter()
        #: The files that code wrote, by absolute path, as last stored.
        self.by_path: dict[str, File] = {}

    def begin(self) -> None:
        """Expect the events of another execution."""
        self._budget = _Budget(self._limits)
        self._missed.clear()

    async def keep(self, event: SandboxEvent) -> ExecutionEvent:
        """The stored form of one event of the sandbox."""
        match event:
            case Output():
                return OutputItem(event.stream, event.text, event.dropped_bytes)
            case Display():
                return await self._keep_display(event)
            case FileChange():
                return await self._keep_file(event)
            case Result():
                if self._missed:
                    # Once: code may leave thousands of them.
                    _log.info("output files not kept", session_id=self._session.session_id, errors=dict(self._missed))
                return ExecutionResult(
                    status=event.status,
                    wall_seconds=event.wall_seconds,
                    cpu_seconds=event.cpu_seconds,
                    peak_memory_bytes=event.peak_memory_bytes,
                    dropped_bytes=event.dropped_bytes,
                    error=event.error,
                    state_lost=event.state_lost,
                    exceeded_limits=(*event.exceeded_limits, *self._budget.exceeded()),
                )

    async def _keep_display(self, display: Display) -> DisplayItem:
        kept: list[Representation] = []
        for form in display.representations:
            content = form.data if form.data is not None else (form.text or "").encode()
            suffix = _SUFFIXES.get(form.media_type)
            is_small = len(content) <= self._limits.inline_bytes
            file = None
            if suffix is not None or not is_small:
                self._files_shown += 1
                name = f"display-{self._files_shown}{suffix or '.bin'}"
                file = await self._files.store_output(self._project, name, _once(content))
            inline = form if is_small else None
            kept.append(
                Representation(
                    form.media_type,
                    text=None if inline is None else inline.text,
                    data=None if inline is None else inline.data,
                    file_id=None if file is None else file.id,
                    sha256=None if file is None else file.sha256,
                )
            )
        return DisplayItem(tuple(kept))

    async def _keep_file(self, change: FileChange) -> FileItem:
        path = f"{DATA_DIRECTORY}/{change.path}"
        if change.kind is FileChangeKind.DELETED:
            self.by_path.pop(path, None)
            return FileItem(path, change.kind)
        name = change.path.rsplit("/", 1)[-1]
        try:
            file = await self._store(name, change)
        except (OSError, DomainError, _OverBudgetError) as error:
            # The code's own doing (gone again, unreadable, too large): told to the reader as a file without an id.
            self.by_path.pop(path, None)
            self._missed[type(error).__name__] += 1
            return FileItem(path, change.kind, size_bytes=change.size_bytes)
        known = self.by_path.get(path)
        # One that its owner has deleted is not what was written: the code wrote it anew.
        if known is not None and known.sha256 == file.sha256 and await self._files.drop_repeat(known, file):
            file = known
        self.by_path[path] = file
        return FileItem(path, change.kind, file, file.size_bytes)

    async def _store(self, name: str, change: FileChange) -> File:
        with self._budget.spend(change.size_bytes):
            async with asyncio.timeout(self._budget.seconds_left):
                return await self._files.store_output(self._project, name, self._session.read_file(change.path))


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
