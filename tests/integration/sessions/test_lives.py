"""How sessions begin and end, when others wait for them or give them up."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

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
        Sessions(database, files, driver, SessionSettings(limits=LIMITS), "server_1") as sessions,
    ):
        driver.opened.clear()  # it opened one for itself, to see that it can
        yield sessions, driver


async def test_thread_whose_session_was_given_up_while_it_opened_gets_another(
    database: Database, tmp_path: Path
) -> None:
    thread = await Threads(database, ThreadLimits()).create(PROJECT, {})
    async with build(database, tmp_path) as (sessions, driver):
        release = threading.Event()
        holding = asyncio.create_task(database.write(lambda _: release.wait(), long=True))
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
        ending = asyncio.create_task(sessions.close_thread(thread.id))
        await asyncio.sleep(0)  # it has begun
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert (await sessions.get(PROJECT, first.id)).status is SessionStatus.CLOSED
        assert (await sessions.for_thread(PROJECT, thread.id, [])).id != first.id
        assert (await sessions.close(PROJECT, first.id)).status is SessionStatus.CLOSED
        assert first.ending is not None
        assert first.ending.done()


async def test_request_whose_caller_left_while_the_session_opened_can_be_repeated(
    database: Database, tmp_path: Path
) -> None:
    async with build(database, tmp_path) as (sessions, driver):
        release = threading.Event()
        holding = asyncio.create_task(database.write(lambda _: release.wait(), long=True))
        opening = asyncio.create_task(sessions.create(PROJECT, None, request_id="r"))
        await driver.opened.wait()
        opening.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await holding
        assert (await sessions.create(PROJECT, None, request_id="r")).status is SessionStatus.ACTIVE


async def test_session_that_ended_while_the_database_was_away_is_closed_once_it_is_back(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/afarensis.db", busy_seconds=0.01) as database:
        thread = await Threads(database, ThreadLimits()).create(PROJECT, {})
        async with build(database, tmp_path) as (sessions, _):
            first = await sessions.for_thread(PROJECT, thread.id, [])
            # Another process holds the write lock, as a backup does.
            backup = sqlite3.connect(tmp_path / "afarensis.db", isolation_level=None)
            with closing(backup), capture_logs() as logs:
                backup.execute("BEGIN IMMEDIATE")
                ending = asyncio.create_task(sessions.close(PROJECT, first.id))
                # A log wakes nobody.
                while not ending.done() and all(entry["log_level"] != "warning" for entry in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert (await ending).status is SessionStatus.CLOSED
            assert (await sessions.for_thread(PROJECT, thread.id, [])).row.status is SessionStatus.ACTIVE
