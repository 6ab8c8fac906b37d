"""Which worker gets which run, and what becomes of a run whose worker ends."""

from collections.abc import Collection
from datetime import datetime, timedelta
from sqlite3 import IntegrityError

import pytest

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Thread
from afarensis_server.store import queue, runs, threads
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.queue import Claim, Lease

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
    return [claim.run for claim in await leases(database, owner, limit=limit)]


async def leases(
    database: Database,
    owner: str,
    time: datetime = SOON,
    limit: int = 10,
    besides: Collection[str] = (),
) -> list[Claim]:
    until = time + timedelta(minutes=1)
    return await database.write(lambda tx: queue.claim(tx.connection, owner, time, until, limit, besides))


async def holds(database: Database, lease: Lease) -> bool:
    return await database.write(lambda tx: queue.holds(tx.connection, lease))


async def test_runs_are_claimed_in_the_order_they_came(database: Database, queued: list[Run]) -> None:
    assert await claim(database, "a", limit=2) == queued[:2]
    assert await claim(database, "b") == queued[2:]


async def test_run_is_claimed_once(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    assert await claim(database, "b") == []


async def test_run_whose_lease_ended_is_claimed_again(database: Database, queued: list[Run]) -> None:
    await claim(database, "a")
    assert [again.run for again in await leases(database, "b", LATER)] == queued


async def test_run_at_work_is_not_claimed_again_by_its_own_worker(database: Database, queued: list[Run]) -> None:
    held = await claim(database, "a", limit=2)
    again = await leases(database, "a", LATER, besides=[run.id for run in held])
    assert [claim.run for claim in again] == queued[2:]


async def test_each_claim_ends_the_lease_of_the_one_before(database: Database, queued: list[Run]) -> None:
    (first,) = await leases(database, "a", limit=1)
    assert await holds(database, first.lease)
    (second,) = await leases(database, "b", LATER, limit=1)
    assert second.run == first.run
    assert second.lease.epoch == first.lease.epoch + 1
    assert not await holds(database, first.lease)
    assert await holds(database, second.lease)


async def test_lease_holds_beyond_its_time_until_somebody_comes(database: Database, queued: list[Run]) -> None:
    (first,) = await leases(database, "a", limit=1)
    assert not await database.read(lambda connection: queue.is_held(connection, first.run.id, LATER, "b"))
    assert await database.read(lambda connection: queue.is_held(connection, first.run.id, LATER, "a"))
    assert await holds(database, first.lease)


async def test_extended_lease_keeps_others_away(database: Database, queued: list[Run]) -> None:
    kept = {claim.lease for claim in (await leases(database, "a"))[:2]}
    held = await database.write(lambda tx: queue.extend(tx.connection, kept, LATER + timedelta(hours=1)))
    assert held == kept
    assert [claim.run for claim in await leases(database, "b", LATER)] == queued[2:]


async def test_owner_learns_which_leases_it_has_lost(database: Database, queued: list[Run]) -> None:
    mine = [claim.lease for claim in await leases(database, "a")]
    await leases(database, "b", LATER, limit=1)
    held = await database.write(lambda tx: queue.extend(tx.connection, mine, LATER))
    assert held == set(mine[1:])


async def test_released_run_is_off_the_queue(database: Database, queued: list[Run]) -> None:
    assert await database.write(lambda tx: queue.release(tx.connection, queued[0].id))
    assert not await database.write(lambda tx: queue.release(tx.connection, queued[0].id))
    assert await claim(database, "a") == queued[1:]


async def test_lease_ends_with_the_work_on_its_run(database: Database, queued: list[Run]) -> None:
    (first,) = await leases(database, "a", limit=1)
    await database.write(lambda tx: queue.release(tx.connection, first.run.id))
    assert not await holds(database, first.lease)


async def test_yielded_run_keeps_its_place(database: Database, queued: list[Run]) -> None:
    for given in await leases(database, "a"):
        assert await database.write(lambda tx: queue.yield_lease(tx.connection, given.lease))  # noqa: B023
    assert await claim(database, "b") == queued


async def test_lease_that_was_lost_cannot_be_yielded(database: Database, queued: list[Run]) -> None:
    (first,) = await leases(database, "a", limit=1)
    (second,) = await leases(database, "b", LATER, limit=1)
    assert not await database.write(lambda tx: queue.yield_lease(tx.connection, first.lease))
    assert await holds(database, second.lease)


async def test_leases_of_an_owner_that_ended_are_released(database: Database, queued: list[Run]) -> None:
    (first, *_) = await leases(database, "a", limit=2)
    (other,) = await leases(database, "b")
    assert await database.write(lambda tx: queue.release_of(tx.connection, "a")) == 2
    assert not await holds(database, first.lease)
    assert await holds(database, other.lease)
    assert await claim(database, "c") == queued[:2]


async def test_run_is_in_the_queue_once(database: Database, queued: list[Run]) -> None:
    with pytest.raises(IntegrityError):
        await database.write(lambda tx: queue.enqueue(tx.connection, queued[0]))
