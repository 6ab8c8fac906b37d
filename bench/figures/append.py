"""How many events a second are stored, beside the same rows in the same commits by SQLite alone."""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.events import EventDraft, EventType, MessageContentDelta, MessageDelta
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import TextContent, Thread
from afarensis_server.events.kinds import RunLog
from afarensis_server.store import runs, threads
from afarensis_server.store.database import Database, Transaction

from ..contenders import Arena
from ..report import Figure, Role, Series, ratio

_PROJECT = "default"
_RUNS = 200
_DRAFT = EventDraft(
    EventType.MESSAGE_DELTA, MessageDelta("msg_x", (MessageContentDelta(0, TextContent("a few words ")),))
)


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    single_count, grouped_count = arena.times(500), arena.times(50)
    single = Series("events, each in a commit of its own", Role.OURS, "/s")
    grouped = Series(f"events of {_RUNS} runs at once, one each at a time", Role.OURS, "/s")
    raw_single = Series("SQLite alone, the same rows and commits", Role.FLOOR, "/s")
    raw_grouped = Series(f"SQLite alone, {_RUNS} events in a commit", Role.FLOOR, "/s")
    # On the disk that the server has.
    with tempfile.TemporaryDirectory(prefix="afarensis-bench-", dir=arena.server.data) as directory:
        async with Database(f"sqlite:///{directory}/bench.db") as database:
            active = await _insert_runs(database)
            log = RunLog(database)

            async def one(run: Run) -> None:
                await database.write(lambda tx: log.append(tx, _PROJECT, run.id, [_DRAFT]))

            async def alone() -> None:
                for _ in range(single_count):
                    await one(active[0])

            async def together() -> None:
                await asyncio.gather(*(_repeated(one, run, grouped_count) for run in active))

            await one(active[0])  # the row that the other side stores, too
            with _Raw(Path(directory, "raw.db"), Path(directory, "bench.db")) as raw:
                for round_number in range(arena.times(5) + 1):
                    rates = [
                        single_count / await _seconds(alone),
                        single_count / _taken(lambda: raw.append(single_count, 1)),
                        _RUNS * grouped_count / await _seconds(together),
                        _RUNS * grouped_count / _taken(lambda: raw.append(grouped_count, _RUNS)),
                    ]
                    if round_number:
                        for series, rate in zip((single, raw_single, grouped, raw_grouped), rates, strict=True):
                            series.rounds.append([rate])
    yield Figure(
        "Events",
        [single, raw_single, grouped, raw_grouped],
        [
            ratio("Events: our rate over SQLite's, a commit each", single, raw_single),
            ratio(f"Events: our rate over SQLite's, {_RUNS} at once", grouped, raw_grouped),
        ],
        ["Every commit is durable, on both sides."],
    )


async def _insert_runs(database: Database) -> list[Run]:
    owners = [Thread(ids.thread_id(), _PROJECT, now()) for _ in range(_RUNS)]
    active = [Run(ids.run_id(), _PROJECT, owner.id, "asst_x", now(), RunStatus.QUEUED, "direct") for owner in owners]

    def insert(tx: Transaction) -> None:
        for owner, run in zip(owners, active, strict=True):
            threads.insert(tx.connection, owner)
            runs.insert(tx.connection, run)

    await database.write(insert)
    return active


class _Raw:
    """The tables of events and of their logs with the rows they have, in one connection of the driver's."""

    def __init__(self, path: Path, copied: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("ATTACH ? AS copied", (str(copied),))
        tables = "tbl_name IN ('event_logs', 'events') AND sql IS NOT NULL"
        for (statement,) in execute(
            f"SELECT sql FROM copied.sqlite_master WHERE {tables} ORDER BY type DESC"
        ).fetchall():
            execute(statement)
        execute("INSERT INTO event_logs SELECT * FROM copied.event_logs")
        execute("UPDATE event_logs SET last_sequence = 0")
        self._run_ids = [run_id for (run_id,) in execute("SELECT run_id FROM event_logs")]
        found = execute("SELECT * FROM copied.events LIMIT 1")
        #: An event as it is stored; its place is another each time.
        self._row = dict(zip((name for name, *_ in found.description), found.fetchone(), strict=True))
        del self._row["position"]
        execute("DETACH copied")
        names = ", ".join(self._row)
        self._insert = f"INSERT INTO events ({names}) VALUES ({', '.join(f':{name}' for name in self._row)})"

    def __enter__(self) -> "_Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def append(self, count: int, together: int) -> None:
        """That many commits, each of an event of this many runs."""
        execute = self._connection.execute
        for _ in range(count):
            execute("BEGIN IMMEDIATE")
            for run_id in self._run_ids[:together]:
                (sequence,) = execute(
                    "UPDATE event_logs SET last_sequence = last_sequence + 1 "
                    "WHERE run_id = ? AND project = ? AND NOT ended RETURNING last_sequence",
                    (run_id, _PROJECT),
                ).fetchone()
                created = time.time_ns() // 1000
                execute(self._insert, {**self._row, "run_id": run_id, "sequence": sequence, "create_time": created})
            execute("COMMIT")


async def _repeated(append: Callable[[Run], Awaitable[None]], run: Run, count: int) -> None:
    for _ in range(count):
        await append(run)


async def _seconds(work: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


def _taken(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
