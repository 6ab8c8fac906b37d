"""Sessions, files and threads on a real sandbox, without a server around them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from afarensis_server.domain.executions import ExecutionEvent, ExecutionResult, FileItem, OutputItem, Started
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.domain.sessions import SessionLimits
from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files, UploadHead
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from afarensis_server.sessions.live import LiveSession
from afarensis_server.sessions.outputs import OutputLimits
from afarensis_server.sessions.service import Sessions
from afarensis_server.sessions.settings import SessionSettings
from afarensis_server.store.database import Database
from afarensis_server.threads.fields import ThreadLimits
from afarensis_server.threads.service import Threads
from tests.support.sandbox import LIMITS, guest_python

PROJECT = "default"
_USUAL = OutputLimits()


class House:
    """Sessions on a real sandbox, with the files and threads they belong to."""

    def __init__(self, files: Files, threads: Threads, sessions: Sessions) -> None:
        self.files = files
        self.threads = threads
        self.sessions = sessions

    async def upload(self, filename: str, content: bytes) -> File:
        return await self.files.create(PROJECT, UploadHead(filename, FilePurpose.ASSISTANTS), content)

    async def thread(self) -> str:
        return (await self.threads.create(PROJECT, {})).id

    async def run(self, live: LiveSession, code: str) -> tuple[str, list[FileItem], bool]:
        """What code printed, the files it changed, and whether variables were lost before."""
        printed, changes, state_lost = "", list[FileItem](), False
        for event in await self.events(live, code):
            match event:
                case Started():
                    state_lost = event.state_lost
                case OutputItem():
                    printed += event.text
                case FileItem():
                    changes.append(event)
                case ExecutionResult():
                    assert event.error is None
        return printed, changes, state_lost

    async def events(self, live: LiveSession, code: str) -> list[ExecutionEvent]:
        """All that an execution told."""
        return [event async for event in self.sessions.execute(live, code)]

    async def next_session(self, live: LiveSession, *inputs: File) -> LiveSession:
        """End a thread's session, and open its next."""
        assert live.row.thread_id is not None
        await self.sessions.close(PROJECT, live.id)
        opened = await self.sessions.for_thread(PROJECT, live.row.thread_id, [file.id for file in inputs])
        assert opened.id != live.id
        return opened


@asynccontextmanager
async def build(
    database: Database,
    directory: Path,
    outputs: OutputLimits = _USUAL,
    limits: SessionLimits = LIMITS,
) -> AsyncIterator[House]:
    settings = LocalSandboxSettings(guest_python=guest_python(), work_directory=directory / "sandbox", pool_size=1)
    async with (
        Files(database, DirectoryBlobs(directory / "blobs"), FileLimits()) as files,
        LocalSandbox(settings) as driver,
        Sessions(database, files, driver, SessionSettings(limits=limits, outputs=outputs), "server_1") as sessions,
    ):
        yield House(files, Threads(database, ThreadLimits()), sessions)
