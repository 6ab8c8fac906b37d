"""Which worker gets which run, and what becomes of a run whose worker ends."""

from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Thread
from afarensis_server.store import queue, runs, threads
from afarensis_server.store.database import Database, Transaction

PROJECT = "default"
TIME = now()
#: Later than any of the rows here is enqueued.
SOON = TIME + timedelta(hours=1)
LATER = SOON + timedelta(minutes=1)


def add_run(tx: Transaction) -> Run:
    thread = Thread(ids.thread_id(), PROJECT, TIME)
    run = Run(ids.run_id(), PROJECT, thread.id, "asst_x", TIME, RunStatus.QUEUED, "direct")
    threads.insert(tx.connection, thread)
    runs.insert(tx.connection, run)
    queue.enqueue(tx.connection, run)
    return run


@pytest.fixture
async def queued(database: Database) -> list[Run]:
    return [await database.write(add_run) for _ in range(3)]


async def claim(database: Database, owner: str, limit: int = 10) -> list[Run]:
    return await database.write(lambda tx: queue.claim(tx.connection, owner, SOON, LATER, limit))


async def test_runs_are_claimed_in_the_order_they_came(database: Database, queued: list[Run]) -> None:
    assert await claim(database, "a", limit=2) == queued[:2]
    assert await claim(database, "b") == queued[2:]


async def test_run_is_claimed_once(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    assert await claim(database, "b") == []


async def test_run_whose_lease_ended_is_claimed_again(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    again = await database.write(lambda tx: queue.claim(tx.connection, "b", LATER, LATER + timedelta(minutes=1), 10))
    assert again == queued


async def test_run_at_work_is_not_claimed_again_by_its_own_worker(database: Database, queued: list[Run]) -> None:
    await claim(database, "a", limit=2)
    held = [run.id for run in queued[:2]]
    later = LATER + timedelta(minutes=1)
    again = await database.write(lambda tx: queue.claim(tx.connection, "a", LATER, later, 10, besides=held))
    assert again == queued[2:]


async def test_extended_lease_holds(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    kept = [queued[0].id, queued[1].id]
    longer = LATER + timedelta(hours=1)
    held = await database.write(lambda tx: queue.extend(tx.connection, "a", kept, longer))
    assert held == set(kept)
    assert await database.write(lambda tx: queue.claim(tx.connection, "b", LATER, longer, 10)) == queued[2:]


async def test_owner_learns_which_leases_it_has_lost(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    await database.write(lambda tx: queue.claim(tx.connection, "b", LATER, LATER + timedelta(hours=1), 1))
    everything = [run.id for run in queued]
    held = await database.write(lambda tx: queue.extend(tx.connection, "a", everything, LATER))
    assert held == {queued[1].id, queued[2].id}


async def test_released_run_is_off_the_queue(database: Database, queued: list[Run]) -> None:
    assert await database.write(lambda tx: queue.release(tx.connection, queued[0].id))
    assert not await database.write(lambda tx: queue.release(tx.connection, queued[0].id))
    assert await claim(database, "a") == queued[1:]


async def test_owner_cannot_release_the_run_of_another(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    assert not await database.write(lambda tx: queue.release(tx.connection, queued[0].id, "b"))
    assert await database.write(lambda tx: queue.release(tx.connection, queued[0].id, "a"))


async def test_yielded_run_keeps_its_place(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    for run in queued:
        assert await database.write(lambda tx: queue.yield_lease(tx.connection, run.id))  # noqa: B023
    assert await claim(database, "b") == queued


async def test_leases_of_a_process_that_ended_are_released(database: Database, queued: list[Run]) -> None:
    await claim(database, "a", limit=2)
    assert await database.write(lambda tx: queue.release_all(tx.connection)) == 2
    assert await claim(database, "b") == queued


async def test_run_is_in_the_queue_once(database: Database, queued: list[Run]) -> None:
    with pytest.raises(IntegrityError):
        await database.write(lambda tx: queue.enqueue(tx.connection, queued[0]))
