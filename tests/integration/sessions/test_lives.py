"""How sessions begin and end, when others wait for them or give them up."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from afarensis_server.domain.sessions import SessionStatus
from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files
from afarensis_server.sandbox.driver import SandboxSession, SessionSpec
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from afarensis_server.sessions.service import Sessions
from afarensis_server.sessions.settings import SessionSettings
from afarensis_server.store.database import Database
from afarensis_server.threads.fields import ThreadLimits
from afarensis_server.threads.service import Threads
from tests.support.sandbox import LIMITS, guest_python

PROJECT = "default"


class TellingSandbox(LocalSandbox):
    """The local driver, which also tells when it has opened a session."""

    def __init__(self, settings: LocalSandboxSettings) -> None:
        super().__init__(settings)
        self.opened = asyncio.Event()

    async def open(self, spec: SessionSpec) -> SandboxSession:
        session = await super().open(spec)
        self.opened.set()
        return session


@asynccontextmanager
async def build(database: Database, directory: Path) -> AsyncIterator[tuple[Sessions, TellingSandbox]]:
    settings = LocalSandboxSettings(guest_python=guest_python(), work_directory=directory / "sandbox", pool_size=0)
    async with (
        Files(database, DirectoryBlobs(directory / "blobs"), FileLimits()) as files,
        TellingSandbox(settings) as driver,
        Sessions(database, files, driver, SessionSettings(limits=LIMITS)) as sessions,
    ):
        yield sessions, driver


async def test_thread_whose_session_was_given_up_while_it_opened_gets_another(
    database: Database, tmp_path: Path
) -> None:
    thread = await Threads(database, ThreadLimits()).create(PROJECT, {})
    async with build(database, tmp_path) as (sessions, driver):
        release = threading.Event()
        holding = asyncio.create_task(database.write(lambda _: release.wait()))
        opening = asyncio.create_task(sessions.for_thread(PROJECT, thread.id, []))
        # The sandbox is there, and its row waits for the writer.
        await driver.opened.wait()
        opening.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await holding
        assert (await sessions.for_thread(PROJECT, thread.id, [])).row.status is SessionStatus.ACTIVE


async def test_session_ends_also_when_whoever_closes_it_gives_up(database: Database, tmp_path: Path) -> None:
    thread = await Threads(database, ThreadLimits()).create(PROJECT, {})
    async with build(database, tmp_path) as (sessions, _):
        first = await sessions.for_thread(PROJECT, thread.id, [])
        closing = asyncio.create_task(sessions.close_thread(thread.id))
        await asyncio.sleep(0)  # it has begun
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert (await sessions.get(PROJECT, first.id)).status is SessionStatus.CLOSED
        assert (await sessions.for_thread(PROJECT, thread.id, [])).id != first.id
        assert (await sessions.close(PROJECT, first.id)).status is SessionStatus.CLOSED
        assert first.ending is not None
        assert first.ending.done()
