"""Turns what a sandbox reports into what is stored: displays and files get ids, paths become absolute."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from ..domain.executions import DisplayItem, ExecutionEvent, ExecutionResult, FileItem, OutputItem, Representation
from ..domain.files import File
from ..errors import DomainError
from ..files.service import Files
from ..sandbox.driver import DATA_DIRECTORY, Display, FileChange, FileChangeKind, Output, Result, SandboxSession
from ..sandbox.driver import ExecutionEvent as SandboxEvent

_log = structlog.get_logger(__name__)

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}


@dataclass(frozen=True, slots=True)
class DisplayLimits:
    """What of a display is kept where."""

    #: Bytes up to which a representation is passed on inline; a larger one becomes a file. An image always becomes one.
    inline_bytes: int = 256 * 1024


class OutputKeeper:
    """Keeps the outputs of one session: stores files under ids that stay the same while the content does."""

    def __init__(self, project: str, session: SandboxSession, files: Files, limits: DisplayLimits) -> None:
        self._project = project
        self._session = session
        self._files = files
        self._limits = limits
        self._files_shown = 0
        #: The files that code wrote, by absolute path, as last stored.
        self.by_path: dict[str, File] = {}

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
                return ExecutionResult(
                    status=event.status,
                    wall_seconds=event.wall_seconds,
                    cpu_seconds=event.cpu_seconds,
                    peak_memory_bytes=event.peak_memory_bytes,
                    dropped_bytes=event.dropped_bytes,
                    error=event.error,
                    state_lost=event.state_lost,
                    exceeded_limits=event.exceeded_limits,
                )

    async def _keep_display(self, display: Display) -> DisplayItem:
        kept: list[Representation] = []
        for form in display.representations:
            content = form.data if form.data is not None else (form.text or "").encode()
            suffix = _SUFFIXES.get(form.media_type)
            is_small = len(content) <= self._limits.inline_bytes
            file_id = None
            if suffix is not None or not is_small:
                self._files_shown += 1
                name = f"display-{self._files_shown}{suffix or '.bin'}"
                file_id = (await self._files.store_output(self._project, name, _once(content))).id
            inline = form if is_small else None
            kept.append(
                Representation(
                    form.media_type,
                    text=None if inline is None else inline.text,
                    data=None if inline is None else inline.data,
                    file_id=file_id,
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
            file = await self._files.store_output(self._project, name, self._session.read_file(change.path))
        except (OSError, DomainError) as error:
            # The code's own doing (gone again, unreadable, too large): told to the reader as a file without an id.
            self.by_path.pop(path, None)
            _log.info("output file not kept", session_id=self._session.session_id, error=type(error).__name__)
            return FileItem(path, change.kind, size_bytes=change.size_bytes)
        known = self.by_path.get(path)
        if known is not None and known.sha256 == file.sha256:
            await self._files.delete(self._project, file.id)
            file = known
        self.by_path[path] = file
        return FileItem(path, change.kind, file, file.size_bytes)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
