"""The write-ahead log is moved into the database, and no commit waits for that."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.threads import Thread
from afarensis_server.store import checkpoints, threads
from afarensis_server.store.database import Database, Transaction

#: Of a page in the log.
_FRAME_BYTES = 4096 + 24


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        # A machine that stands still for a moment would have the writer's thread do what is to be done here.
        opened._writer._patience._slow_seconds = 60.0  # type: ignore[union-attr]
        yield opened


async def write(database: Database, count: int, *, durable: bool = False) -> None:
    for _ in range(count):
        thread = Thread(ids.thread_id(), "default", now(), metadata={"k": "v" * 500})
        await database.write(lambda tx: threads.insert(tx.connection, thread), durable=durable)  # noqa: B023  # awaited


def log_bytes(tmp_path: Path) -> int:
    return (tmp_path / "store.db-wal").stat().st_size


@pytest.mark.parametrize("durable", [False, True])
async def test_no_commit_waits_for_a_checkpoint(database: Database, *, durable: bool) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    backend = database._backend
    checkpoint = backend.checkpoint

    def slow(connection: Connection) -> int:
        begun.set()
        assert may_go_on.wait(120)
        return checkpoint(connection)

    backend.checkpoint = slow  # type: ignore[method-assign]
    try:
        async with asyncio.timeout(60):
            await write(database, 3 * checkpoints._EVERY_COMMITS, durable=durable)
        assert begun.is_set()
    finally:
        may_go_on.set()


async def test_log_that_was_moved_begins_anew(database: Database, tmp_path: Path) -> None:
    await write(database, checkpoints._EVERY_COMMITS)
    moving = database._writer._checkpoints._running  # type: ignore[union-attr]
    assert moving is not None
    await asyncio.wait([moving])
    before = log_bytes(tmp_path)
    await write(database, checkpoints._EVERY_COMMITS // 2)
    assert log_bytes(tmp_path) == before


async def test_commits_go_on_where_no_thread_can_be_started(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("store-checkpoint"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with asyncio.timeout(60):
        await write(database, 40 * checkpoints._EVERY_COMMITS)
    # The writer moved it, again and again.
    assert log_bytes(tmp_path) < checkpoints._MOST_PAGES * _FRAME_BYTES


@pytest.mark.parametrize(
    ("durable", "pages", "commits"), [(False, checkpoints._MOST_PAGES, 6_000), (True, 1_000, 2_400)]
)
async def test_log_has_an_end_where_writers_never_pause(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool, pages: int, commits: int
) -> None:
    monkeypatch.setattr(checkpoints, "_MOST_PAGES", pages)
    await write(database, commits, durable=durable)
    # Each commit has three pages or more, and some come while a checkpoint goes on.
    assert log_bytes(tmp_path) < 2 * pages * _FRAME_BYTES < 3 * commits * _FRAME_BYTES


async def test_log_that_is_too_long_is_the_next_commits(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_MOST_PAGES", 1)
    await write(database, checkpoints._EVERY_COMMITS)
    moving = database._writer._checkpoints._running  # type: ignore[union-attr]
    assert moving is not None
    await asyncio.wait([moving])
    await asyncio.sleep(0)  # for who was told of its end
    assert (await database.write(where, durable=False)).startswith("store-write")
    assert await database.write(where, durable=False) == threading.main_thread().name


async def test_checkpoint_that_fails_is_told_and_left_to_the_next_commit(database: Database) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    backend = database._backend

    def failing(connection: Connection) -> int:
        raise OSError("the disk is gone")

    backend.checkpoint = failing  # type: ignore[method-assign]
    await write(database, checkpoints._EVERY_COMMITS)
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    assert str(told[0]["exception"]) == "the disk is gone"
    assert (await database.write(where, durable=False)).startswith("store-write")


def where(_: Transaction) -> str:
    """The thread that a unit runs in."""
    return threading.current_thread().name
