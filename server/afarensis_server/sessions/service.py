"""Keeps the open sessions: finds and ends them, and runs code in them."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import structlog

from .. import ids
from ..clock import now
from ..domain.executions import ExecutionEvent, ExecutionResult, FileItem, Started
from ..domain.sessions import KeptFile, Session, SessionStatus
from ..errors import (
    DatabaseUnavailable,
    RequestIdReused,
    SandboxDown,
    SessionBusy,
    SessionElsewhere,
    SessionExists,
    SessionNotActive,
    SessionNotFound,
    ThreadNotFound,
)
from ..files.service import Files
from ..sandbox.driver import SandboxDriver, SandboxUnavailable
from ..store import requests, thread_files
from ..store import sessions as session_rows
from ..store import threads as thread_rows
from ..store.database import Database
from ..store.pages import Page, PageRequest
from ..store.writer import Transaction
from ..validation import Violations, check_file_ids
from .checkpoint import after
from .inputs import Inputs
from .live import LiveSession
from .opening import CREATE, OnInsert, Opener
from .reaping import Reaper
from .settings import NO_WISHES, SessionSettings, SessionWishes

_log = structlog.get_logger(__name__)

#: Seconds between attempts to store the end of a session.
_RETRY_SECONDS = 1.0


class Sessions:
    """All sessions of this server. An async context manager: leaving it ends them.

    Args:
        database: where they are kept.
        files: what is put in, and what code makes.
        driver: what they run in.
        settings: their limits.
        owner: names this server among those that share the database. The same name, used again, ends what it left open.
    """

    def __init__(
        self, database: Database, files: Files, driver: SandboxDriver, settings: SessionSettings, owner: str
    ) -> None:
        self.owner = owner
        self._database = database
        self._inputs = Inputs(database, files)
        self._opener = Opener(database, files, self._inputs, driver, settings, owner)
        self.settings = settings
        self._live: dict[str, LiveSession] = {}
        self._by_thread: dict[str, LiveSession] = {}
        #: Those that are being ended, until nothing is left of them.
        self._ending: dict[str, LiveSession] = {}
        #: Held while a thread's session is opened or given files, and per request; gone when nobody does.
        self._opening: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._reaper = Reaper(self._live, partial(self._end, status=SessionStatus.EXPIRED))
        self._leaving = False

    async def __aenter__(self) -> Self:
        # What an earlier process of this server left open died with it.
        await self._database.write(lambda tx: session_rows.lose_of(tx.connection, self.owner, now()))
        self._reaper.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._reaper.stop()
        self._leaving = True
        left = [*self._live.values(), *self._ending.values()]
        # Every one to its end, also when another could not be ended: what goes next is what they use.
        ends = await asyncio.gather(*(self._end(live, SessionStatus.CLOSED) for live in left), return_exceptions=True)
        for live, end in zip(left, ends, strict=True):
            if isinstance(end, BaseException):
                _log.error("session could not be ended", session_id=live.id, exc_info=end)

    # --- what clients ask for -----------------------------------------------------------------------------------------

    async def create(
        self,
        project: str,
        thread_id: str | None,
        file_ids: Sequence[str] = (),
        wanted: SessionWishes = NO_WISHES,
        request_id: str = "",
    ) -> Session:
        """Open a session with these files; with a ``request_id``, once.

        Raises ThreadNotFound, SessionExists, FileNotFound, SandboxCapacity, SandboxDown, RequestIdReused.
        """
        if not request_id:
            return await self._create(project, thread_id, file_ids, wanted)
        fingerprint = requests.fingerprint_of(thread_id, list(file_ids), wanted)
        async with self._lock(f"request {project} {request_id}"):
            found = await self._database.read(lambda connection: requests.find(connection, project, CREATE, request_id))
            if found is None:

                def remember(tx: Transaction, session_id: str) -> None:
                    requests.forget(tx.connection)
                    requests.remember(tx.connection, project, CREATE, request_id, fingerprint, session_id)

                return await self._create(project, thread_id, file_ids, wanted, remember)
            known, session_id = found
            if known != fingerprint:
                raise RequestIdReused(request_id=request_id)
            return await self.get(project, session_id)

    async def _create(
        self,
        project: str,
        thread_id: str | None,
        file_ids: Sequence[str],
        wanted: SessionWishes,
        on_insert: OnInsert | None = None,
    ) -> Session:
        if thread_id is None:
            return (await self._open(project, None, file_ids, wanted=wanted, on_insert=on_insert)).row
        thread = await self._database.read(lambda connection: thread_rows.get(connection, project, thread_id))
        if thread is None:
            raise ThreadNotFound(id=thread_id)
        shared = thread.tool_resources.code_interpreter_file_ids
        async with self._lock(thread_id):
            if (live := self._by_thread.get(thread_id)) is not None:
                raise SessionExists(thread_id=thread_id, session_id=live.id)
            return (await self._open(project, thread_id, file_ids, shared, wanted, on_insert)).row

    async def get(self, project: str, session_id: str) -> Session:
        """The session as it stands. Raises SessionNotFound."""
        row = await self._database.read(lambda connection: session_rows.get(connection, project, session_id))
        if row is None:
            raise SessionNotFound(id=session_id)
        live = self._live.get(session_id) or self._ending.get(session_id)
        return row if live is None else live.row

    def active_execution(self, session_id: str) -> str:
        """The id of the execution that runs in a session now; empty when none does."""
        live = self._live.get(session_id)
        return "" if live is None else live.execution_id

    async def list(
        self,
        project: str,
        page: PageRequest,
        thread_id: str | None = None,
        status: SessionStatus | None = None,
    ) -> Page[Session]:
        """The sessions of a project, of one thread, or with one status. Raises PageTokenInvalid."""
        found = await self._database.read(
            lambda connection: session_rows.list_page(connection, project, page, thread_id=thread_id, status=status)
        )
        # The row of an open session is written when it opens and when it ends; in between, it is here.
        rows = [live.row if (live := self._live.get(row.id)) is not None else row for row in found.items]
        return Page(rows, found.next_token)

    async def close(self, project: str, session_id: str) -> Session:
        """End the session with its processes and files. May be repeated. Raises SessionNotFound, SessionElsewhere."""
        row = await self.get(project, session_id)
        live = self._live.get(session_id) or self._ending.get(session_id)
        if live is not None:
            return await self._end(live, SessionStatus.CLOSED)
        self._check_own(row)
        return row

    async def live(self, project: str, session_id: str) -> LiveSession:
        """The open session with this id. Raises SessionNotFound, SessionNotActive, SessionElsewhere."""
        live = self._live.get(session_id)
        if live is not None and live.project == project:
            return live
        row = await self.get(project, session_id)
        self._check_own(row)
        raise SessionNotActive(session_id=session_id, status=row.status)

    def _check_own(self, row: Session) -> None:
        if row.status is SessionStatus.ACTIVE and row.owner != self.owner:
            raise SessionElsewhere(session_id=row.id)

    async def add_files(self, project: str, session_id: str, file_ids: Sequence[str]) -> Session:
        """Put files into an open session under their own names, where they take the place of what lies there.

        Raises InvalidFields, SessionNotFound, SessionNotActive, SessionBusy, FileNotFound, SandboxDown.
        """
        violations = Violations(self.settings.shared)
        if not file_ids:
            violations.required("file_ids")
        check_file_ids(violations, "file_ids", file_ids, maximum=self.settings.files)
        violations.check()
        live = await self.live(project, session_id)
        if busy := live.busy_with:
            raise SessionBusy(session_id=live.id, execution_id=busy)
        async with live.turn:
            files = await self._inputs.find(project, file_ids)
            names = {file.id: file.filename for file in files}
            together = {**live.names, **{name: file_id for file_id, name in names.items()}}
            violations.count("file_ids", tuple(set(together.values())), maximum=self.settings.files)
            violations.check()
            await self._inputs.place(live, files, names)
        return live.row

    async def close_thread(self, thread_id: str) -> None:
        """End the thread's session, if one is open, or is just being opened."""
        async with self._lock(thread_id):
            live = self._by_thread.get(thread_id)
        if live is not None:
            await self._end(live, SessionStatus.CLOSED)

    # --- what runs ask for --------------------------------------------------------------------------------------------

    async def for_thread(self, project: str, thread_id: str, shared_ids: Sequence[str]) -> LiveSession:
        """The thread's session, opened if there is none, with those of these files in it that are not gone.

        Raises SandboxCapacity, SandboxDown.
        """
        async with self._lock(thread_id):
            live = self._by_thread.get(thread_id)
            if live is None:
                return await self._open(project, thread_id, (), shared_ids)
            await self._inputs.add(live, shared_ids)
            return live

    def open_of_thread(self, thread_id: str) -> LiveSession | None:
        """The thread's session, if one is open."""
        return self._by_thread.get(thread_id)

    def paths_of(self, thread_id: str) -> dict[str, str]:
        """File ids by absolute path in the thread's open session; empty when none is open."""
        live = self._by_thread.get(thread_id)
        return {} if live is None else live.paths()

    async def execute(
        self,
        live: LiveSession,
        code: str,
        *,
        execution_id: str | None = None,
        timeout_seconds: float | None = None,
        wait: bool = True,
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """Run code and yield what it does: Started first, ExecutionResult last. Code runs once Started was taken.

        Executions of one session take turns; without ``wait``, SessionBusy is raised when one is running or waits for
        files that are being put in. Closing the iterator early interrupts the code. Raises SessionNotActive,
        SandboxDown.
        """
        execution_id = execution_id or ids.execution_id()
        if not wait and (busy := live.busy_with):
            raise SessionBusy(session_id=live.id, execution_id=busy)
        seconds = min(timeout_seconds or self.settings.execution_seconds, self.settings.max_execution_seconds)
        await live.take_turn(execution_id)
        try:
            if live.id not in self._live:
                raise SessionNotActive(session_id=live.id, status=live.row.status)
            self._reaper.touch(live)
            is_another = await live.sandbox.prepare()
            yield Started(execution_id, is_another or live.follows_another)
            live.follows_another = False
            live.outputs.begin()
            changes: list[FileItem] = []
            async with aclosing(live.sandbox.execute(code, timeout_seconds=seconds)) as events:
                async for event in events:
                    kept = await live.outputs.keep(event)
                    if isinstance(kept, FileItem):
                        changes.append(kept)
                    elif isinstance(kept, ExecutionResult):
                        await self._note(live, after(changes, live.names))
                    yield kept
        except SandboxUnavailable as error:
            raise SandboxDown(detail=str(error)) from error
        finally:
            live.end_turn()
            self._reaper.touch(live)

    # --- opening and ending -------------------------------------------------------------------------------------------

    async def _open(
        self,
        project: str,
        thread_id: str | None,
        file_ids: Sequence[str],
        shared_ids: Sequence[str] = (),
        wanted: SessionWishes = NO_WISHES,
        on_insert: OnInsert | None = None,
    ) -> LiveSession:
        live = await self._opener.open(project, thread_id, file_ids, shared_ids, wanted, on_insert)
        self._live[live.id] = live
        if thread_id is not None:
            self._by_thread[thread_id] = live
        self._reaper.watch(live)
        _log.info("session opened", session_id=live.id, thread_id=thread_id, files=len(live.row.file_ids))
        return live

    async def _note(self, live: LiveSession, kept: Sequence[KeptFile]) -> None:
        """Note what lies where in a thread's session, for the next one."""
        thread_id = live.thread_id
        if thread_id is not None and kept:
            await self._database.write(lambda tx: thread_files.save(tx.connection, live.project, thread_id, kept))

    async def _end(self, live: LiveSession, status: SessionStatus) -> Session:
        """End a session, to the end even when the caller is cancelled; whoever asks again waits for the same."""
        if live.ending is None:
            # Out of the tables first, so that nobody takes it up while it ends.
            del self._live[live.id]
            if live.thread_id is not None and self._by_thread.get(live.thread_id) is live:
                del self._by_thread[live.thread_id]
            self._ending[live.id] = live
            live.row = replace(live.row, status=status, close_time=now())
            live.ending = asyncio.create_task(self._finish(live), name=f"end of {live.id}")
        await asyncio.shield(live.ending)
        return live.row

    async def _finish(self, live: LiveSession) -> None:
        try:
            # The row first: the thread's next session must not find another active one.
            stored = await self._store_end(live)
            await live.sandbox.close()
            while not stored and not self._leaving:
                await asyncio.sleep(_RETRY_SECONDS)
                stored = await self._store_end(live)
            _log.info("session ended", session_id=live.id, status=live.row.status)
        finally:
            del self._ending[live.id]

    async def _store_end(self, live: LiveSession) -> bool:
        """Whether the row says that the session has ended. Where it cannot be written, the next start does it."""
        try:
            return await self._database.write(lambda tx: session_rows.update(tx.connection, live.row))
        except DatabaseUnavailable as error:
            _log.warning("end of session not stored yet", session_id=live.id, error=str(error))
            return False

    def _lock(self, key: str) -> asyncio.Lock:
        return self._opening.setdefault(key, asyncio.Lock())
