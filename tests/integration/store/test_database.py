"""Units of work: what they see, what they leave, and what reaches their callers when something fails."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import StatementError

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.threads import Thread
from afarensis_server.errors import DatabaseUnavailable, RunNotFound, ShuttingDown
from afarensis_server.store import tables, threads
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.pages import PageRequest
from afarensis_server.store.writer import TransactionLost

PROJECT = "default"


def new_thread() -> Thread:
    return Thread(ids.thread_id(), PROJECT, now())


def insertion(thread: Thread) -> Callable[[Transaction], None]:
    return lambda tx: threads.insert(tx.connection, thread)


def statement(sql: str) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        tx.connection.exec_driver_sql(sql)

    return work


async def stored(database: Database) -> set[str]:
    page = await database.read(lambda connection: threads.list_page(connection, PROJECT, PageRequest(size=1000)))
    return {thread.id for thread in page.items}


class Gate:
    """Holds the writer inside a unit, so that others gather behind it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open = threading.Event()
        self._entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> None:
        self._holder = asyncio.create_task(self._database.write(self._hold, long=True))
        await self._entered.wait()

    async def __aexit__(self, *_: object) -> None:
        # Tasks that were created inside have submitted their units once the loop has run them.
        await asyncio.sleep(0)
        self._open.set()
        # It shares the fate of those behind it.
        await asyncio.wait({self._holder})
        self._holder.exception()

    def _hold(self, _tx: Transaction) -> None:
        self._loop.call_soon_threadsafe(self._entered.set)
        assert self._open.wait(timeout=30)


def count_commits(database: Database) -> list[None]:
    commits: list[None] = []
    backend = database._backend
    commit = backend.commit

    def counted(connection: Connection) -> None:
        commit(connection)
        commits.append(None)

    backend.commit = counted  # type: ignore[method-assign]
    return commits


async def test_write_is_seen_by_the_next_read(database: Database) -> None:
    thread = new_thread()
    await database.write(insertion(thread))
    assert await database.read(lambda connection: threads.get(connection, PROJECT, thread.id)) == thread


async def test_write_returns_what_the_unit_returned(database: Database) -> None:
    assert await database.write(lambda _tx: 42) == 42


async def test_units_that_wait_share_one_commit(database: Database) -> None:
    commits = count_commits(database)
    waiting = [new_thread() for _ in range(50)]
    async with Gate(database):
        tasks = [asyncio.create_task(database.write(insertion(thread))) for thread in waiting]
    await asyncio.gather(*tasks)
    assert len(commits) == 2  # the gate's own, and theirs
    assert await stored(database) == {thread.id for thread in waiting}


async def test_many_units_are_committed_in_several_batches(database: Database) -> None:
    commits = count_commits(database)
    async with Gate(database):
        tasks = [asyncio.create_task(database.write(lambda _tx: None)) for _ in range(1200)]
    await asyncio.gather(*tasks)
    assert len(commits) >= 3


def synchronous(tx: Transaction) -> object:
    """How far SQLite goes to commit a unit: 1 for its WAL's order, 2 for its place on the disk."""
    return tx.connection.exec_driver_sql("PRAGMA synchronous").scalar_one()


async def test_only_units_that_must_outlive_a_power_cut_wait_for_the_disk(database: Database) -> None:
    assert await database.write(synchronous, durable=False) == 1
    assert await database.write(synchronous) == 2


def where(_: Transaction) -> str:
    """The thread that a unit runs in."""
    return threading.current_thread().name


async def test_small_units_run_on_the_event_loop_and_long_ones_in_a_thread(database: Database) -> None:
    here = threading.main_thread().name
    assert await database.write(where, durable=False) == here
    assert await database.write(where) == here
    assert (await database.write(where, long=True)).startswith("store-write")


async def test_units_behind_a_long_one_keep_their_order(database: Database) -> None:
    order: list[str] = []
    async with Gate(database):
        tasks = []
        for name, long in (("small", False), ("long", True), ("next", False)):
            tasks.append(asyncio.create_task(database.write(partial(note, order, name), long=long)))
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["small", "long", "next"]


def note(order: list[str], name: str, _: Transaction) -> None:
    order.append(name)


async def test_disk_that_is_slow_holds_up_the_event_loop_but_once(database: Database) -> None:
    database._writer._patience._lost_seconds = 60.0  # type: ignore[union-attr]
    await database.write(lambda _: time.sleep(0.06))
    assert (await database.write(where)).startswith("store-write")


async def test_unit_behind_others_waits_for_its_turn(database: Database) -> None:
    order: list[str] = []
    async with Gate(database):
        first = asyncio.create_task(database.write(lambda _tx: order.append("durable")))
        await asyncio.sleep(0)
        second = asyncio.create_task(database.write(lambda _tx: order.append("quick"), durable=False))
    await asyncio.gather(first, second)
    assert order == ["durable", "quick"]


async def test_unit_that_is_submitted_by_a_callback_does_not_overtake_those_before_it(database: Database) -> None:
    order: list[str] = []
    late: list[asyncio.Task[None]] = []

    def first(tx: Transaction) -> None:
        def write_more() -> None:
            def unit(tx: Transaction) -> None:
                tx.after_commit(lambda: order.append("late"))

            late.append(asyncio.create_task(database.write(unit, durable=False)))

        tx.after_commit(write_more)

    def second(tx: Transaction) -> None:
        tx.after_commit(lambda: order.append("second"))

    async with Gate(database):
        tasks = [asyncio.create_task(database.write(work)) for work in (first, second)]
    await asyncio.gather(*tasks)
    await asyncio.gather(*late)
    assert order == ["second", "late"]


async def test_lock_of_another_process_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Database(f"sqlite:///{path}", busy_seconds=30.0) as database:
        thread = new_thread()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(database.write(insertion(thread), durable=False))
            # The loop goes on, and so the lock is let go: else the write would fail after its 30 seconds.
            async with asyncio.timeout(10):
                assert await stored(database) == set()
            other.execute("ROLLBACK")
        await writing
        assert await stored(database) == {thread.id}


async def test_durable_unit_among_others_is_committed_durably(database: Database) -> None:
    wanted = [False, True, False, False, True]
    levels = await asyncio.gather(*(database.write(synchronous, durable=durable) for durable in wanted))
    assert all(level == 2 for level, durable in zip(levels, wanted, strict=True) if durable)
    assert levels[0] == 1


async def test_unit_that_fails_is_undone_alone(database: Database) -> None:
    before, failing, after = new_thread(), new_thread(), new_thread()

    def fail(tx: Transaction) -> None:
        threads.insert(tx.connection, failing)
        raise RunNotFound(id="run_x")

    async with Gate(database):
        tasks = [asyncio.create_task(database.write(work)) for work in (insertion(before), fail, insertion(after))]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], RunNotFound)
    assert results[2] is None
    assert await stored(database) == {before.id, after.id}


async def test_first_unit_of_a_batch_that_fails_is_undone_alone(database: Database) -> None:
    commits = count_commits(database)
    failing, after = new_thread(), new_thread()

    def fail(tx: Transaction) -> None:
        threads.insert(tx.connection, failing)
        raise ValueError("no")

    async with Gate(database):
        tasks = [asyncio.create_task(database.write(work)) for work in (fail, insertion(after))]
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, ValueError)
    assert second is None
    assert await stored(database) == {after.id}
    assert len(commits) == 2  # the gate's own, and theirs


async def test_database_error_of_a_unit_reaches_its_caller_alone(database: Database) -> None:
    thread, other = new_thread(), new_thread()
    async with Gate(database):
        tasks = [asyncio.create_task(database.write(insertion(each))) for each in (thread, thread, other)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], sqlite3.IntegrityError)
    assert await stored(database) == {thread.id, other.id}


async def test_stop_iteration_reaches_the_caller(database: Database) -> None:
    def work(_: object) -> None:
        next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.write(work)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.read(work)


async def test_cancelled_caller_does_not_undo_its_unit(database: Database) -> None:
    thread = new_thread()
    called: list[str] = []

    def work(tx: Transaction) -> None:
        threads.insert(tx.connection, thread)
        tx.after_commit(lambda: called.append("committed"))

    async with Gate(database):
        task = asyncio.create_task(database.write(work))
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Units are done in order: once this one is, so is the other.
    await database.write(lambda _tx: None)
    assert await stored(database) == {thread.id}
    assert called == ["committed"]


async def test_failure_after_the_caller_has_left_is_reported(database: Database) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def fail(_tx: Transaction) -> None:
        raise ValueError("lost")

    async with Gate(database):
        task = asyncio.create_task(database.write(fail))
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.write(lambda _tx: None)
    assert [str(context["exception"]) for context in reported] == ["lost"]


async def test_callbacks_run_after_the_commit_in_order_and_before_the_caller_goes_on(database: Database) -> None:
    called: list[int] = []

    def work(number: int) -> Callable[[Transaction], None]:
        return lambda tx: tx.after_commit(lambda: called.append(number))

    async with Gate(database):
        tasks = [asyncio.create_task(database.write(work(number))) for number in range(10)]
    await tasks[9]
    assert called == list(range(10))


async def test_callback_of_a_failed_unit_is_not_called(database: Database) -> None:
    called: list[str] = []

    def fail(tx: Transaction) -> None:
        tx.after_commit(lambda: called.append("no"))
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  it has no text
        await database.write(fail)
    assert called == []


async def test_callback_that_fails_keeps_nobody_waiting(database: Database) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def broken() -> None:
        raise ValueError("callback")

    async with Gate(database):
        tasks = [
            asyncio.create_task(database.write(lambda tx: tx.after_commit(broken))),
            asyncio.create_task(database.write(lambda _tx: None)),
        ]
    await asyncio.gather(*tasks)
    assert [str(context["exception"]) for context in reported] == ["callback"]


async def test_read_sees_one_snapshot(database: Database) -> None:
    loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    thread = new_thread()

    def work(connection: Connection) -> tuple[Thread | None, Thread | None]:
        first = threads.get(connection, PROJECT, thread.id)
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(timeout=30)
        return first, threads.get(connection, PROJECT, thread.id)

    reading = asyncio.create_task(database.read(work))
    await began.wait()
    await database.write(insertion(thread))
    go_on.set()
    assert await reading == (None, None)


async def test_long_read_does_not_hold_up_others(database: Database) -> None:
    loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def work(_connection: Connection) -> None:
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(timeout=30)

    reading = asyncio.create_task(database.read(work))
    await began.wait()
    assert await database.read(lambda _connection: 1) == 1
    go_on.set()
    await reading


async def test_read_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(lambda connection: threads.insert(connection, new_thread()))


async def test_error_of_a_read_leaves_the_thread_usable(database: Database) -> None:
    def fail(_connection: Connection) -> None:
        raise ValueError("no")

    for _ in range(8):
        with pytest.raises(ValueError, match="no"):
            await database.read(fail)
    assert await database.read(lambda _connection: 1) == 1


async def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    submitted = [new_thread() for _ in range(300)]
    async with Database(url) as database:
        tasks = [asyncio.create_task(database.write(insertion(thread))) for thread in submitted]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    async with Database(url) as database:
        assert await stored(database) == {thread.id for thread in submitted}


async def test_closed_database_refuses(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path / 'a.db'}") as database:
        pass
    with pytest.raises(ShuttingDown):
        await database.read(lambda _connection: None)
    with pytest.raises(ShuttingDown):
        await database.write(lambda _tx: None)


async def test_closing_ends_all_threads(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path / 'a.db'}") as database:
        await database.read(lambda _connection: None)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")]


async def test_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="SQLite file"):
        Database("sqlite://")


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Database]:
    """A database that gives up waiting for a lock at once."""
    async with Database(f"sqlite:///{tmp_path / 'impatient.db'}", busy_seconds=0.01) as database:
        yield database


async def test_lock_of_another_process_fails_all_that_wait_and_nothing_else(
    impatient: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "impatient.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(impatient.write(insertion(new_thread())) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [DatabaseUnavailable] * 3
        assert "database is locked" in str(results[0])
        assert await stored(impatient) == set()
        other.execute("ROLLBACK")
    finally:
        other.close()
    thread = new_thread()
    await impatient.write(insertion(thread))
    assert await stored(impatient) == {thread.id}


def fill(tx: Transaction) -> None:
    """Let the database file grow no more, then write more than fits."""
    pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    threads.insert(tx.connection, Thread(ids.thread_id(), PROJECT, now(), metadata={"k": "x" * 1_000_000}))


async def test_full_disk_fails_those_it_concerns_and_leaves_the_database_usable(database: Database) -> None:
    kept = new_thread()
    await database.write(insertion(kept))
    async with Gate(database):
        tasks = [asyncio.create_task(database.write(work)) for work in (insertion(new_thread()), fill, lambda _tx: 7)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], DatabaseUnavailable)
    assert "disk is full" in str(results[1])
    told = {type(result) for result in results if isinstance(result, BaseException)}
    assert told == {DatabaseUnavailable}
    # Whoever was told that it is stored, is right; and reads go on.
    assert kept.id in await stored(database)
    assert (len(await stored(database)) == 2) == (results[0] is None)
    await database.write(statement("PRAGMA max_page_count = 1000000"))
    thread = new_thread()
    await database.write(insertion(thread))
    assert thread.id in await stored(database)


async def test_unit_that_ends_the_transaction_is_found_out(database: Database) -> None:
    async with Gate(database):
        tasks = [
            asyncio.create_task(database.write(insertion(new_thread()))),
            asyncio.create_task(database.write(statement("ROLLBACK"))),
        ]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {TransactionLost}
    assert await stored(database) == set()


WRITE_AND_DIE = """
import asyncio, os, signal, sys
from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.threads import Thread
from afarensis_server.store import threads
from afarensis_server.store.database import Database

async def main():
    async with Database(sys.argv[1]) as database:
        thread = Thread(ids.thread_id(), "default", now())
        await database.write(lambda tx: threads.insert(tx.connection, thread))
        print(thread.id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", WRITE_AND_DIE, url], capture_output=True, text=True, check=False
    )
    assert died.returncode == -9, died.stderr
    async with Database(url) as database:
        assert await stored(database) == {died.stdout.strip()}


async def test_a_statement_that_cannot_be_bound_fails_alone(database: Database) -> None:
    def wrong(tx: Transaction) -> None:
        tx.connection.execute(tables.sessions.update().values(status="nonsense"))

    async with Gate(database):
        # The first that the connection does by SQLAlchemy, which must not undo what is not its own.
        refused = asyncio.create_task(database.write(wrong))
        done = asyncio.create_task(database.write(lambda _tx: "done"))
    with pytest.raises(StatementError, match="nonsense"):
        await refused
    assert await done == "done"
