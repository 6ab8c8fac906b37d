"""Rows that are found by their keys: read on the event loop, as long as that holds up nobody."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.threads import Thread
from afarensis_server.errors import RunNotFound, ShuttingDown
from afarensis_server.store import readers, threads
from afarensis_server.store.database import Database

PROJECT = "default"
HERE = threading.current_thread()


def where(_connection: Connection) -> threading.Thread:
    return threading.current_thread()


def looking(thread_id: str) -> Callable[[Connection], Thread | None]:
    return lambda connection: threads.get(connection, PROJECT, thread_id)


async def test_look_takes_no_thread(database: Database) -> None:
    assert await database.look(where) is HERE


async def test_look_sees_every_commit_before_it(database: Database) -> None:
    for _ in range(20):
        thread = Thread(ids.thread_id(), PROJECT, now(), metadata={"k": "v"})
        assert await database.look(looking(thread.id)) is None
        await database.write(lambda tx: threads.insert(tx.connection, thread))  # noqa: B023 - awaited here
        assert await database.look(looking(thread.id)) == thread


async def test_look_keeps_no_snapshot(database: Database) -> None:
    """Or the write-ahead log could never begin anew."""
    await database.look(looking("thread_x"))
    await database.write(lambda tx: threads.insert(tx.connection, Thread("thread_x", PROJECT, now())))
    path = await database.read(lambda c: c.exec_driver_sql("PRAGMA database_list").one().file)
    other = sqlite3.connect(path)
    try:
        busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        other.close()
    assert busy == 0


async def test_slow_look_leaves_the_next_ones_to_threads(database: Database) -> None:
    database._readers._patience._lost_seconds = 60.0  # type: ignore[union-attr]
    await database.look(lambda _: time.sleep(2 * readers._SLOW_SECONDS))
    assert await database.look(where) is not HERE


async def test_event_loop_looks_again_after_a_while(database: Database) -> None:
    await database.look(lambda _: time.sleep(2 * readers._SLOW_SECONDS))
    async with asyncio.timeout(10.0):
        while await database.look(where) is not HERE:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


async def test_disk_that_stays_slow_is_tried_less_and_less_often(database: Database) -> None:
    tried: list[float] = []

    def slow(_connection: Connection) -> None:
        if threading.current_thread() is HERE:
            tried.append(time.monotonic())
            time.sleep(2 * readers._SLOW_SECONDS)

    async with asyncio.timeout(20.0):
        while len(tried) < 4:
            await database.look(slow)
            await asyncio.sleep(0.001)
    first, second, third, fourth = tried
    assert third - second > 1.5 * (second - first)
    assert fourth - third > 1.5 * (third - second)


async def test_error_of_a_look_reaches_its_caller_and_leaves_it_usable(database: Database) -> None:
    def failing(_connection: Connection) -> None:
        raise RunNotFound(id="run_x")

    with pytest.raises(RunNotFound):
        await database.look(failing)
    assert await database.look(where) is HERE


async def test_lock_is_waited_for_in_a_thread(database: Database) -> None:
    def locked(_connection: Connection) -> str:
        if threading.current_thread() is HERE:
            raise sqlite3.OperationalError("database is locked")
        return "read"

    assert await database.look(locked) == "read"
    assert await database.look(where) is HERE


async def test_look_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match="readonly"):
        await database.look(lambda connection: connection.exec_driver_sql("DELETE FROM threads"))


async def test_closed_database_is_not_looked_into(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/a.db") as database:
        await database.look(where)
    with pytest.raises(ShuttingDown):
        await database.look(where)
