"""Puts files of the server into sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from ..clock import now
from ..domain.files import File
from ..domain.sessions import KeptFile
from ..errors import FileNotFound, SandboxDown, SessionNotActive
from ..files.lookup import find_files, require_files
from ..files.service import Files
from ..sandbox.driver import DATA_DIRECTORY, InputFile, SandboxUnavailable
from ..store import sessions as session_rows
from ..store import thread_files
from ..store.database import Database
from ..store.writer import Transaction
from .live import LiveSession
from .names import assign_names


class Inputs:
    """The input files of all sessions."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files

    async def find(self, project: str, file_ids: Sequence[str], shared_ids: Sequence[str] = ()) -> Sequence[File]:
        """The files, each once, and of those that a thread shares the ones that are not gone. Raises FileNotFound."""

        def read(connection: Connection) -> Sequence[File]:
            time = now()
            return list(
                {
                    **require_files(connection, project, file_ids, time),
                    **find_files(connection, project, shared_ids, time),
                }.values()
            )

        return await self._database.read(read) if file_ids or shared_ids else []

    async def at(self, project: str, file: File, path: str, input_id: str) -> InputFile:
        """A file as a sandbox is given it."""
        return InputFile(input_id, path, await self._files.path(project, file.id), file.size_bytes)

    async def add(self, live: LiveSession, shared_ids: Sequence[str]) -> None:
        """Add those that the session does not have and that are not gone, under names that are free in it."""
        taken = live.taken_names()
        known = set(taken.values())
        missing = [file_id for file_id in shared_ids if file_id not in known]
        while files := await self.find(live.project, [], missing):
            try:
                await self.place(live, files, assign_names(files, taken))
                return
            except FileNotFound:
                continue  # one was deleted meanwhile: the others

    async def place(self, live: LiveSession, files: Sequence[File], names: Mapping[str, str]) -> None:
        """Make files visible under these names, by file id. What lies there makes place."""
        project, thread_id = live.project, live.thread_id
        inputs = [await self.at(project, file, names[file.id], file.id) for file in files]
        try:
            await live.sandbox.add_files(inputs)
        except FileNotFoundError:
            await self.find(project, list(names))  # raises for the one that was deleted meanwhile
            raise
        except SandboxUnavailable as error:
            if live.ending is not None:
                raise SessionNotActive(session_id=live.id, status=live.row.status) from error
            raise SandboxDown(detail=str(error)) from error
        live.names |= {name: file_id for file_id, name in names.items()}
        for name in names.values():
            live.outputs.by_path.pop(f"{DATA_DIRECTORY}/{name}", None)
        given = set(live.names.values())
        file_ids = dict.fromkeys(file_id for file_id in (*live.row.file_ids, *names) if file_id in given)
        live.row = replace(live.row, file_ids=tuple(file_ids))
        kept = [KeptFile(name, file_id, file_id) for file_id, name in names.items()]

        def note(tx: Transaction) -> None:
            # As it is when this is done: the session may have ended meanwhile.
            session_rows.update(tx.connection, live.row)
            if thread_id is not None:
                thread_files.save(tx.connection, project, thread_id, kept)

        await self._database.write(note)
