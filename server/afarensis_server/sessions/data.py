"""What lies below /mnt/data of open sessions. Code makes these files: names, times and sizes may be anything."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from ..domain.sessions import SessionFile
from ..errors import DomainError, OffsetPastEnd, SandboxDown, SessionFileNotFound, SessionNotActive
from ..sandbox.driver import DATA_DIRECTORY, DataFile, SandboxUnavailable
from ..store.database import Database
from ..store.pages import Page, Seal
from .live import LiveSession
from .service import Sessions

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The last moment of the year 9999, in nanoseconds.
_LATEST_NS = 253_402_300_799 * 10**9
#: Bytes of one chunk of content.
_CHUNK_BYTES = 1024 * 1024


class SessionData:
    """Lists and reads the files of open sessions."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions

    async def list(
        self, project: str, session_id: str, directory: str, page_size: int, page_token: str
    ) -> Page[SessionFile]:
        """The files of a session by path, or those below a directory.

        Raises SessionNotFound, SessionNotActive, PageTokenInvalid.
        """
        live = await self._sessions.live(project, session_id)
        scope = ["session files", project, session_id, directory]
        after = ""
        if page_token:
            after = await self._database.read(lambda connection: Seal(connection, scope).open(page_token))
        try:
            files = await live.sandbox.list_files()
        except SandboxUnavailable as error:
            raise _gone(live, error) from error
        relative = _relative(directory) if directory else ""
        prefix = f"{relative}/" if relative else ""
        found = [file for file in files if relative is not None and file.path.startswith(prefix) and file.path > after]
        page = [_session_file(live, file) for file in found[:page_size]]
        if len(found) <= page_size:
            return Page(page)
        last = found[page_size - 1].path
        return Page(page, await self._database.read(lambda connection: Seal(connection, scope).make(last)))

    async def open(
        self, project: str, session_id: str, path: str, offset_bytes: int, limit_bytes: int
    ) -> tuple[SessionFile, AsyncGenerator[bytes, None]]:
        """A file and its content from an offset on; a limit of 0 is none.

        Raises SessionNotFound, SessionNotActive, SessionFileNotFound, OffsetPastEnd.
        """
        live = await self._sessions.live(project, session_id)
        relative = _relative(path)
        if not relative:
            raise SessionFileNotFound(path=path, session_id=session_id)
        try:
            file = await live.sandbox.stat_file(relative)
        except OSError as error:
            raise SessionFileNotFound(path=path, session_id=session_id) from error
        except SandboxUnavailable as error:
            raise _gone(live, error) from error
        if offset_bytes > file.size_bytes:
            raise OffsetPastEnd(offset_bytes=offset_bytes, id=path, size_bytes=file.size_bytes)
        left = file.size_bytes - offset_bytes
        return _session_file(live, file), _read(live, relative, offset_bytes, min(left, limit_bytes or left))


async def _read(live: LiveSession, path: str, offset_bytes: int, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(live.sandbox.read_file(path, offset_bytes, limit_bytes)) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), _CHUNK_BYTES):
                    yield chunk[start : start + _CHUNK_BYTES]
    except OSError as error:
        raise SessionFileNotFound(path=path, session_id=live.id) from error
    except SandboxUnavailable as error:
        raise _gone(live, error) from error


def _relative(path: str) -> str | None:
    """A path as the sandbox names it, empty for /mnt/data itself; None for one that is not below it."""
    path = path.rstrip("/") or "/"
    if path == DATA_DIRECTORY:
        return ""
    if path.startswith(f"{DATA_DIRECTORY}/"):
        return path.removeprefix(f"{DATA_DIRECTORY}/")
    return None if path.startswith("/") else path


def _session_file(live: LiveSession, file: DataFile) -> SessionFile:
    path = f"{DATA_DIRECTORY}/{file.path}"
    stored = live.outputs.by_path.get(path)
    given = live.names.get(file.path) if file.is_untouched and stored is None else None
    is_stored = stored is not None and file.is_settled and stored.size_bytes == file.size_bytes
    modified_ns = min(max(file.modify_time_ns, 0), _LATEST_NS)
    return SessionFile(
        path=path,
        size_bytes=file.size_bytes,
        modify_time=_EPOCH + timedelta(microseconds=modified_ns // 1000),
        file_id=stored.id if stored is not None and is_stored else given,
        is_input=given is not None,
    )


def _gone(live: LiveSession, error: SandboxUnavailable) -> DomainError:
    if live.ending is not None:
        return SessionNotActive(session_id=live.id, status=live.row.status)
    return SandboxDown(detail=str(error))
