"""Opens sessions: finds their files, has a sandbox made, and stores their row."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from .. import ids
from ..clock import now
from ..domain.files import File
from ..domain.sessions import KeptFile, Session, SessionLimits, SessionStatus
from ..errors import FileNotFound, SandboxCapacity, SandboxDown, ThreadNotFound
from ..files.service import Files
from ..sandbox.driver import (
    DATA_DIRECTORY,
    SandboxDriver,
    SandboxFull,
    SandboxUnavailable,
    SessionSpec,
)
from ..store import requests, thread_files
from ..store import sessions as session_rows
from ..store import threads as thread_rows
from ..store.database import Database
from ..store.writer import Transaction
from .checkpoint import Layout, lay_out
from .inputs import Inputs
from .live import LiveSession, expiry
from .outputs import OutputKeeper
from .settings import NO_WISHES, SessionSettings, SessionWishes

#: Called in the transaction that stores a new session, with its id.
OnInsert = Callable[[Transaction, str], None]

#: The method of the contract, as requests are remembered by.
CREATE = "CreateSession"


class Opener:
    """Makes a session whole or not at all."""

    def __init__(
        self,
        database: Database,
        files: Files,
        inputs: Inputs,
        driver: SandboxDriver,
        settings: SessionSettings,
        owner: str,
    ) -> None:
        self._database = database
        self._files = files
        self._inputs = inputs
        self._driver = driver
        self._settings = settings
        self._owner = owner

    async def open(
        self,
        project: str,
        thread_id: str | None,
        file_ids: Sequence[str],
        shared_ids: Sequence[str] = (),
        wanted: SessionWishes = NO_WISHES,
        on_insert: OnInsert | None = None,
    ) -> LiveSession:
        """Open a session with these files, and those of its thread's that are not gone.

        The caller sees to it that a thread has only one. Raises ThreadNotFound, FileNotFound, SandboxCapacity,
        SandboxDown.
        """
        session_id = ids.session_id()
        limits = wanted.limits or self._settings.limits
        files, layout = await self._find(project, thread_id, file_ids, shared_ids)
        sandbox = None
        while sandbox is None:
            try:
                sandbox = await self._driver.open(await self._spec(project, session_id, limits, layout))
            except (FileNotFound, FileNotFoundError):
                # If one was deleted meanwhile, then without it.
                tried = layout
                files, layout = await self._find(project, thread_id, file_ids, shared_ids)
                if layout == tried:
                    raise
            except SandboxFull as error:
                raise SandboxCapacity from error
            except SandboxUnavailable as error:
                raise SandboxDown(detail=str(error)) from error
        moment = now()
        row = Session(
            id=session_id,
            project=project,
            create_time=moment,
            status=SessionStatus.ACTIVE,
            thread_id=thread_id,
            last_active_time=moment,
            limits=limits,
            idle_seconds=wanted.idle_seconds or self._settings.idle_seconds,
            life_seconds=wanted.life_seconds or self._settings.life_seconds,
            expire_time=moment,
            file_ids=tuple(file.id for file in files),
            name=wanted.name,
            metadata=wanted.metadata,
            owner=self._owner,
        )
        row = replace(row, expire_time=expiry(row, moment))
        live = LiveSession(row, sandbox, OutputKeeper(project, sandbox, self._files, self._settings.outputs))
        live.names = layout.inputs
        live.outputs.by_path |= {
            f"{DATA_DIRECTORY}/{path}": file
            for path, file in layout.placed.items()
            if file.id != layout.inputs.get(path)
        }
        try:
            live.follows_another = await self._database.write(
                lambda tx: _insert(tx, row, layout.kept, on_insert),
                # A power cut ends the session. What is to be told of it afterwards is what a thread's next one has, and
                # that a request was answered.
                durable=thread_id is not None or on_insert is not None,
            )
        except BaseException:
            # The row is stored even when only the caller was cancelled; the thread could have no other session then,
            # and whoever repeats the request would be given this one.
            try:
                await self._database.write(lambda tx: _undo_insert(tx, row))
            finally:
                await sandbox.close()
            raise
        return live

    async def _find(
        self, project: str, thread_id: str | None, file_ids: Sequence[str], shared_ids: Sequence[str]
    ) -> tuple[Sequence[File], Layout]:
        """The files that were given, and all that is to lie below /mnt/data. Raises FileNotFound."""
        files = await self._inputs.find(project, file_ids, shared_ids)
        if thread_id is None and not files:
            return files, Layout({}, {}, ())
        return files, await self._database.read(lambda connection: lay_out(connection, project, thread_id, files))

    async def _spec(self, project: str, session_id: str, limits: SessionLimits, layout: Layout) -> SessionSpec:
        files = [
            await self._inputs.at(project, file, path, layout.inputs.get(path, ""))
            for path, file in layout.placed.items()
        ]
        return SessionSpec(session_id, limits, tuple(files))


def _undo_insert(tx: Transaction, row: Session) -> None:
    session_rows.delete(tx.connection, row.project, row.id)
    requests.forget_resource(tx.connection, row.project, CREATE, row.id)


def _insert(tx: Transaction, row: Session, kept: Sequence[KeptFile], on_insert: OnInsert | None) -> bool:
    """Store the session; tells whether its thread had one before, whose variables are gone."""
    if on_insert is not None:
        on_insert(tx, row.id)
    had_one = False
    if row.thread_id is not None:
        if thread_rows.get(tx.connection, row.project, row.thread_id) is None:
            raise ThreadNotFound(id=row.thread_id)  # it was deleted while the sandbox was made
        had_one = session_rows.exists_for_thread(tx.connection, row.project, row.thread_id)
        if had_one:
            # None of this server's, which has looked before: one of another server's, which is no more, or goes on.
            session_rows.lose_of_thread(tx.connection, row.project, row.thread_id, row.create_time)
        thread_files.save(tx.connection, row.project, row.thread_id, kept)
    session_rows.insert(tx.connection, row)
    return had_one
