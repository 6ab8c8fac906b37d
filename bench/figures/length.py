"""What long threads and many of them cost: the same calls to a server that has few, and to one that has very many."""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from afarensis import v1
from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Message, MessageRole, MessageStatus, TextContent, Thread
from afarensis_server.store import messages, runs, threads
from afarensis_server.store.database import Database, Transaction

from ..contenders import Arena, Server
from ..report import Figure, Role, Series, ratio

_PROJECT = "default"
#: Threads, each with a run, and messages of the longest of them. Few are as many as a prompt has room for
#: (``runs.history_tokens``): of a shorter thread, all is read.
_FEW = (100, 2_000)
_MANY = (100_000, 10_000)
#: Runs that have failed, spread over all.
_FAILED = 5
_CALLS = 40
_TARGET = ("<=", 1.5)
_STORED_TOGETHER = 1_000

_Call = Callable[[], Awaitable[object]]


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    many = tuple(max(few, int(number * min(1.0, arena.effort))) for few, number in zip(_FEW, _MANY, strict=True))
    async with _Filled(*_FEW) as short, _Filled(*many) as long:
        calls = {"few": await _calls(short.server, short.longest), "many": await _calls(long.server, long.longest)}
        names = list(calls["few"])
        few = {name: Series(f"{name}, {_FEW[0]} threads, {_FEW[1]:,} messages", Role.OURS, "ms") for name in names}
        lots = {name: Series(f"the same, {many[0]:,} threads, {many[1]:,} messages", Role.OURS, "ms") for name in names}
        for round_number in range(arena.times(5) + 1):
            for name in names:
                times = await _time(calls["few"][name]), await _time(calls["many"][name])
                if round_number:
                    few[name].rounds.append(times[0])
                    lots[name].rounds.append(times[1])
        deletion, waits = await _delete(long.server, long.longest, await long.server.thread())
    waited = f"`CreateMessage` elsewhere took {statistics.median(waits):.1f} ms, {max(waits):.1f} ms at most"
    yield Figure(
        "Length",
        [series for name in names for series in (few[name], lots[name])],
        [ratio(f"Length: {name}, many over few", lots[name], few[name], _TARGET) for name in names],
        [f"`DeleteThread` of the thread with {many[1]:,} messages took {deletion:.0f} ms; meanwhile {waited}."],
    )


class _Filled:
    """A server on a database that has so many threads; an async context manager."""

    def __init__(self, thread_count: int, message_count: int) -> None:
        self._thread_count = thread_count
        self._message_count = message_count
        self.server = Server({"sandbox.pool_size": 1})
        #: The thread with all the messages.
        self.longest = ids.thread_id()

    async def __aenter__(self) -> "_Filled":
        self.server.data.mkdir(mode=0o700)
        async with Database(f"sqlite:///{self.server.data / 'afarensis.db'}") as database:
            for first in range(0, self._thread_count, _STORED_TOGETHER):
                some = range(first, min(first + _STORED_TOGETHER, self._thread_count))
                await database.write(partial(self._store, some))
            await database.write(self._store_messages)
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.server.__aexit__(None, None, None)

    def _store(self, numbers: range, tx: Transaction) -> None:
        for number in numbers:
            time = now() - timedelta(seconds=self._thread_count - number)
            thread = Thread(self.longest if number == 0 else ids.thread_id(), _PROJECT, time)
            threads.insert(tx.connection, thread)
            status = RunStatus.COMPLETED if number % (self._thread_count // _FAILED) else RunStatus.FAILED
            runs.insert(tx.connection, Run(ids.run_id(), _PROJECT, thread.id, "asst_x", time, status, "direct"))

    def _store_messages(self, tx: Transaction) -> None:
        message = Message(
            "",
            _PROJECT,
            self.longest,
            now(),
            MessageRole.USER,
            MessageStatus.COMPLETED,
            (TextContent("A few words, as people write them, and some more of them. " * 4),),
        )
        messages.insert(
            tx.connection,
            *(replace(message, id=ids.message_id(), create_time=now()) for _ in range(self._message_count)),
        )


async def _calls(server: Server, longest: str) -> dict[str, _Call]:
    """What is measured, by name."""
    assistant = await server.assistant("direct")
    failed = [v1.RUN_STATUS_FAILED, v1.RUN_STATUS_EXPIRED]

    async def run() -> None:
        async for _ in server.run(longest, assistant, "No code."):
            pass

    return {
        "`ListThreads`": lambda: server.threads.ListThreads(v1.ListThreadsRequest()),
        "`ListMessages`": lambda: server.threads.ListMessages(v1.ListMessagesRequest(thread_id=longest)),
        "`ListRuns` of two statuses": lambda: server.runs.ListRuns(v1.ListRunsRequest(statuses=failed)),
        "`CreateMessage`": lambda: server.threads.CreateMessage(v1.CreateMessageRequest(thread_id=longest, text="a")),
        "a run of `direct` without code": run,
    }


async def _time(call: _Call) -> list[float]:
    times = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        await call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


async def _delete(server: Server, thread: str, other: str) -> tuple[float, list[float]]:
    """Milliseconds to delete a thread, and those that each message to another one took meanwhile."""
    start = time.perf_counter()
    deletion = server.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread))
    waits = []
    while not deletion.done():
        sent = time.perf_counter()
        await server.threads.CreateMessage(v1.CreateMessageRequest(thread_id=other, text="a"))
        waits.append((time.perf_counter() - sent) * 1e3)
    await deletion
    return (time.perf_counter() - start) * 1e3, waits
