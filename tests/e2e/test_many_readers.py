"""Many readers of one run: those that read get everything, those that do not cost nobody anything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from afarensis import v1
from tests.support.api import Api
from tests.support.scripted_model import Delta, Turn, Wait
from tests.support.scripts import Scripts
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOLLOWERS = 1_000
STALLED = 200
#: Connections that the readers share.
_CHANNELS = 10
#: By default a client takes megabytes that nobody reads.
_SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024))
#: What the server may grow by. A queue for each of the readers that do not read would take five times as much.
_ALLOWED_BYTES = 100 * 2**20


@pytest_asyncio.fixture(loop_scope="session")
async def server(scripts: Scripts, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    with ServerProcess(tmp_path, {"openai.base_url": scripts.base_url}) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def apis(server: ServerProcess) -> AsyncIterator[list[Api]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Api(server.address, *_SMALL_WINDOW)) for _ in range(_CHANNELS)]


def memory_bytes(server: ServerProcess) -> int:
    """What the server process has in memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


async def settles(server: ServerProcess, before: int) -> None:
    """Return once the server takes about as much memory as before. What is on its way to the clients takes some."""
    async with asyncio.timeout(20):
        while memory_bytes(server) - before > _ALLOWED_BYTES:  # noqa: ASYNC110  memory tells nobody
            await asyncio.sleep(0.1)


async def run_on(scripts: Scripts, api: Api, pieces: int, size: int) -> tuple[v1.Run, asyncio.Event]:
    """A run whose answer begins, and comes in so many pieces of so many characters once the event is set."""
    release = asyncio.Event()
    rest = [Delta({"content": f"{number:08}".ljust(size, ".")}) for number in range(pieces)]
    author = scripts.add(Turn((Delta({"content": "So: "}), Wait(release), *rest)))
    return await api.run(author.model), release


class Reader:
    """One stream of a run's events, of which it keeps the sequences."""

    def __init__(self, api: Api, run: v1.Run) -> None:
        self.stream: Any = api.runs.StreamRunEvents(v1.StreamRunEventsRequest(run_id=run.id))
        self.sequences: list[int] = []
        self.last = v1.RUN_EVENT_TYPE_UNSPECIFIED

    async def begin(self) -> None:
        """Read up to the first delta of the message."""
        while self.last != v1.RUN_EVENT_TYPE_THREAD_MESSAGE_DELTA:
            self._take(await self.stream.read())

    async def finish(self) -> None:
        while (item := await self.stream.read()) is not grpc.aio.EOF:
            self._take(item)

    def _take(self, item: v1.StreamRunEventsResponse) -> None:
        if item.HasField("event"):
            self.sequences.append(item.event.sequence)
            self.last = item.event.type


async def test_a_thousand_followers_of_one_run_miss_nothing(
    scripts: Scripts, apis: list[Api], server: ServerProcess
) -> None:
    run, release = await run_on(scripts, apis[0], 10, 20)
    readers = [Reader(apis[number % _CHANNELS], run) for number in range(FOLLOWERS)]
    await asyncio.gather(*(reader.begin() for reader in readers))
    before = memory_bytes(server)
    release.set()
    await asyncio.gather(*(reader.finish() for reader in readers))
    last = (await apis[0].stored_events(run.id))[-1].sequence
    assert all(reader.sequences == list(range(1, last + 1)) for reader in readers)
    assert {reader.last for reader in readers} == {v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED}
    await settles(server, before)


async def test_readers_that_stand_still_hold_nothing_up_and_take_no_memory(
    scripts: Scripts, apis: list[Api], server: ServerProcess
) -> None:
    run, release = await run_on(scripts, apis[0], 500, 4_000)
    readers = [Reader(apis[1 + number % (_CHANNELS - 1)], run) for number in range(STALLED)]
    await asyncio.gather(*(reader.begin() for reader in readers))
    before = memory_bytes(server)
    release.set()
    assert (await apis[0].settled(run)).status == v1.RUN_STATUS_COMPLETED
    await settles(server, before)

    # Whoever reads again finds everything in its place.
    last = (await apis[0].stored_events(run.id))[-1].sequence
    await readers[0].finish()
    assert readers[0].sequences == list(range(1, last + 1))
    for reader in readers[1:]:
        reader.stream.cancel()
