"""Cancellations, ends, expiries, outputs and deletions that come at the same time, in orders drawn by a seed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from afarensis_server.clock import now
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Thread
from afarensis_server.errors import (
    RunNotAwaitingToolOutputs,
    RunNotCancellable,
    RunNotFound,
    ThreadNotFound,
    ToolOutputsMismatch,
)
from afarensis_server.runs.submitting import ToolOutput
from afarensis_server.store import tables
from afarensis_server.store.database import Database, Transaction
from tests.support.invariants import check_run
from tests.support.scripted_model import Delta, Pause, Request, ScriptedModel, Turn, call, text

from .conftest import LOOKUP, PROJECT, House, build

T = TypeVar("T")
ROUNDS = 60


class Unsteady(Database):
    """A database whose units of work wait a moment, drawn by a seed, before they are taken."""

    random = Random(0)

    async def write(self, work: Callable[[Transaction], T], *, durable: bool = True, long: bool = False) -> T:
        await pause(self.random)
        return await super().write(work, durable=durable, long=long)


async def pause(random: Random) -> None:
    """Let others go first: most often a few, at times all that can."""
    if random.random() < 0.2:
        await asyncio.sleep(random.random() * 0.01)
    for _ in range(random.randrange(6)):
        await asyncio.sleep(0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Unsteady]:
    async with Unsteady(f"sqlite:///{tmp_path}/afarensis.db") as opened:
        yield opened


def answer(request: Request) -> Turn:
    """Words, or a call of the function, as the last message of the user asks for."""
    asked = [message for message in request.body["messages"] if message["role"] == "user"][-1]["content"]
    if "function" in str(asked) and not request.tool_texts:
        return call("lookup", {"word": "x"})
    return text("One, ").then(Pause(0.002), Delta({"content": "two, "}), Pause(0.002), Delta({"content": "three."}))


class Race:
    """One run, and what is done to it."""

    def __init__(self, house: House, random: Random, run: Run) -> None:
        self._house = house
        self._random = random
        self._run = run

    async def cancel(self) -> None:
        with suppress(RunNotCancellable, RunNotFound):
            run = await self._house.runs.cancel(PROJECT, self._run.id)
            assert run.status in (RunStatus.CANCELLING, RunStatus.CANCELLED)

    async def submit(self) -> None:
        # Once it waits, most often; also before.
        for _ in range(self._random.randrange(20)):
            with suppress(RunNotFound):
                if (await self._house.runs.get(PROJECT, self._run.id)).status is RunStatus.REQUIRES_ACTION:
                    break
            await asyncio.sleep(0.002)
        with suppress(RunNotAwaitingToolOutputs, ToolOutputsMismatch, RunNotFound):
            run = await self._house.runs.get(PROJECT, self._run.id)
            asked = run.required_action.calls if run.required_action is not None else ()
            outputs = [ToolOutput(call.id, "y") for call in asked] or [ToolOutput("call_1", "y")]
            await self._house.runs.submit_tool_outputs(PROJECT, self._run.id, outputs)

    async def expire(self) -> None:
        """As if its time were over now."""
        row = (tables.runs.c.id == self._run.id, tables.runs.c.expire_time.is_not(None))
        over = tables.runs.update().where(*row).values(expire_time=now())
        await self._house.database.write(lambda tx: tx.connection.execute(over).rowcount)
        self._house.engine.wake(now())

    async def delete(self) -> None:
        with suppress(ThreadNotFound):
            await self._house.runs.delete_thread(PROJECT, self._run.thread_id)

    async def go(self) -> None:
        """Everything at once, more or less; afterwards the run is over, or is ended."""
        weighted = [self.cancel] * 3 + [self.submit] * 4 + [self.expire] * 2 + [self.delete]
        chosen = self._random.choices(weighted, k=self._random.randint(1, 5))
        await asyncio.gather(*(self._later(action) for action in chosen))
        with suppress(RunNotFound):
            if (await self._house.settled(self._run)).status is RunStatus.REQUIRES_ACTION:
                await self.cancel()
                await self._house.settled(self._run)

    async def _later(self, action: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self._random.random() * 0.03)
        await pause(self._random)
        await action()


async def begin(house: House, random: Random) -> Run:
    words = random.choice(["Say it.", "Use the function."])
    thread: Thread = await house.thread(words)
    assistant = await house.assistant(LOOKUP)
    return await house.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id})


@pytest.mark.parametrize("seed", range(4))
async def test_however_it_comes_a_run_ends_once_and_everything_agrees(
    database: Unsteady, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    Unsteady.random = Random(seed + 1_000)
    ends: dict[str, str] = {}
    async with ScriptedModel(answer) as endpoint, build(database, tmp_path, endpoint) as house:
        for _ in range(ROUNDS // 12):
            begun = [await begin(house, random) for _ in range(12)]
            await asyncio.gather(*(Race(house, random, run).go() for run in begun))
            ends |= {run.id: check_run(tmp_path / "afarensis.db", run.id) for run in begun}
            for run in begun:
                with suppress(ThreadNotFound):
                    await house.threads.create_message(PROJECT, run.thread_id, {"text": "The thread is free."})
        # Nobody says anything behind the end.
        await house.engine.drain(10.0)
        assert {run_id: check_run(tmp_path / "afarensis.db", run_id) for run_id in ends} == ends
    assert len(ends) == ROUNDS
    assert len(set(ends.values())) >= 3, f"races of one outcome are none: {Counter(ends.values())}"
