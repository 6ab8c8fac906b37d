"""Puts files of the server into sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..domain.files import File
from ..domain.sessions import KeptFile
from ..errors import SandboxDown, SessionNotActive
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

    async def find(self, project: str, file_ids: Sequence[str]) -> Sequence[File]:
        """The files, each once. Raises FileNotFound."""
        return [await self._files.get(project, file_id) for file_id in dict.fromkeys(file_ids)]

    async def at(self, project: str, file: File, path: str, input_id: str) -> InputFile:
        """A file as a sandbox is given it."""
        return InputFile(input_id, path, await self._files.path(project, file.id), file.size_bytes)

    async def add(self, live: LiveSession, file_ids: Sequence[str]) -> None:
        """Add those that the session does not have, under names that are free in it."""
        taken = live.taken_names()
        known = set(taken.values())
        missing = [file_id for file_id in file_ids if file_id not in known]
        if missing:
            files = await self.find(live.project, missing)
            await self.place(live, files, assign_names(files, taken))

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
