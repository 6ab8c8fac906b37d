"""How fast the store is on this machine: python bench/store.py [directory on the disk to measure]."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.events import EventDraft, EventType, MessageContentDelta, MessageDelta, RunEvent
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import TextContent, Thread
from afarensis_server.events.kinds import RunLog
from afarensis_server.store import runs, threads
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.pages import PageRequest

PROJECT = "default"
#: Concurrent runs to design for.
RUNS = 200


def new_thread() -> Thread:
    return Thread(ids.thread_id(), PROJECT, now())


def insertion(thread: Thread) -> Callable[[Transaction], None]:
    return lambda tx: threads.insert(tx.connection, thread)


async def measure(name: str, count: int, unit: str, work: Callable[[], Awaitable[object]]) -> None:
    began = time.perf_counter()
    await work()
    print(f"{name:<62} {count / (time.perf_counter() - began):>9,.0f} {unit}/s")


async def measure_writes(database: Database) -> list[Thread]:
    stored = [new_thread() for _ in range(10_000)]

    def insert(tx: Transaction) -> None:
        for _ in range(5000):
            threads.insert(tx.connection, new_thread())

    async def one_at_a_time() -> None:
        for _ in range(500):
            await database.write(insertion(new_thread()))

    async def together() -> None:
        await asyncio.gather(*(database.write(insertion(thread)) for thread in stored))

    await measure("insert and commit, all waiting together", len(stored), "rows", together)
    await measure("insert, in one unit of work", 5000, "rows", lambda: database.write(insert))
    await measure("insert and commit, one at a time", 500, "rows", one_at_a_time)
    return stored


async def measure_reads(database: Database, stored: list[Thread]) -> None:
    def get(thread: Thread) -> Callable[[Connection], Thread | None]:
        return lambda connection: threads.get(connection, PROJECT, thread.id)

    def get_all(connection: Connection) -> None:
        for thread in stored:
            threads.get(connection, PROJECT, thread.id)

    async def one_at_a_time() -> None:
        for thread in stored:
            await database.read(get(thread))

    async def together() -> None:
        await asyncio.gather(*(database.read(get(thread)) for thread in stored))

    async def page_by_page() -> None:
        request = PageRequest()
        for _ in range(100):
            page = await database.read(lambda connection: threads.list_page(connection, PROJECT, request))  # noqa: B023
            request = PageRequest(token=page.next_token)

    await measure("get by id, in one unit of work", len(stored), "rows", lambda: database.read(get_all))
    await measure("get by id, a unit of work each, one at a time", len(stored), "reads", one_at_a_time)
    await measure("get by id, a unit of work each, all waiting together", len(stored), "reads", together)
    await measure("list of 15,500 threads, pages of 20", 100, "pages", page_by_page)


async def measure_events(database: Database, owners: list[Thread]) -> None:
    log = RunLog(database)
    active = [Run(ids.run_id(), PROJECT, owner.id, "asst_x", now(), RunStatus.QUEUED, "direct") for owner in owners]

    def insert(tx: Transaction) -> None:
        for run in active:
            runs.insert(tx.connection, run)

    await database.write(insert)
    draft = EventDraft(
        EventType.MESSAGE_DELTA, MessageDelta("msg_x", (MessageContentDelta(0, TextContent("a few words ")),))
    )

    async def append(run: Run, burst: int) -> None:
        drafts = [draft] * burst
        for _ in range(100 // burst):
            await database.write(lambda tx: log.append(tx, PROJECT, run.id, drafts))

    async def follow(run: Run, after: int) -> None:
        async for item in log.follow(PROJECT, run.id, after, 15):
            if isinstance(item, RunEvent) and item.sequence == after + 100:
                return

    for burst in (1, 5, 20):
        await measure(
            f"{RUNS} runs append {burst} events at a time",
            RUNS * 100,
            "events",
            lambda: asyncio.gather(*(append(run, burst) for run in active)),  # noqa: B023
        )
    for burst in (1, 5, 20):
        ends = [await log.last_sequence(PROJECT, run.id) for run in active]
        await measure(
            f"{RUNS} runs append {burst} events at a time, each to a follower",
            RUNS * 100,
            "events",
            lambda: asyncio.gather(
                *(append(run, burst) for run in active),  # noqa: B023
                *(follow(run, end) for run, end in zip(active, ends, strict=True)),  # noqa: B023
            ),
        )
    await measure("read a whole log", 600, "events", lambda: log.read_all(PROJECT, active[0].id))


async def main(directory: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        async with Database(f"sqlite:///{temporary}/bench.db") as database:
            stored = await measure_writes(database)
            await measure_reads(database, stored)
            await measure_events(database, stored[:RUNS])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
