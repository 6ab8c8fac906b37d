"""The server is killed at each commit of a deletion, or of an expiry, and started again on the same data.

A thread is there with all that belongs to it, or nothing of it is: whoever asked for its deletion may ask once more. A
run whose time is over has expired, with what its reader saw.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from afarensis import v1
from tests.support.api import CODE_INTERPRETER, LOOKUP, Api, Refusal, event_name, read_refusal, seconds
from tests.support.invariants import check_run
from tests.support.scripted_model import Delta, Pause, Request, ScriptedModel, Turn, call, code
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

#: Chains of servers that are killed and started side by side.
_CHAINS = 2
#: Commits from where the server is told to die: the deletion's own, and those of what it ends. The last points may come
#: when all is done.
_COMMITS = {"answering": 3, "waiting": 2, "executing": 3, "expired": 2}
#: What is waited for before the server is told. What else was under way may be committed before the deletion.
_REACHED = {
    "answering": "message.delta",
    "waiting": "run.requires_action",
    "executing": "run.step.delta",
    "expired": "message.delta",
}


@dataclass(frozen=True, slots=True)
class Point:
    """When the server dies: at so many commits from the deletion, or from the last commit before the expiry."""

    scenario: str
    commit: int
    when: str

    def __str__(self) -> str:
        return f"{self.scenario}-{self.when}-{self.commit}"


POINTS = [
    Point(scenario, commit, when)
    for scenario, commits in _COMMITS.items()
    for commit in range(1, commits + 1)
    for when in ("before", "after")
]


@dataclass(slots=True)
class Outcome:
    """What was seen before the kill, and what is there after it."""

    seen: list[v1.RunEvent] = field(default_factory=list)
    #: Whether the server had died by itself, at its point.
    died: bool = False
    #: Whether the thread was there after the restart, before its deletion was asked for once more.
    was_there: bool = False
    #: Why what is asked for behind the deletion is refused.
    refusals: list[str] = field(default_factory=list)
    #: The run's events after the restart, where it is still there.
    stored: list[v1.RunEvent] = field(default_factory=list)
    end: str = ""


def answer(request: Request) -> Turn:
    """Something that lasts, by the model's name."""
    match request.body["model"]:
        case "waiting":
            return call("lookup", {"word": "x"})
        case "executing":
            return code("import time\nprint('it runs', flush=True)\ntime.sleep(60)")
    return Turn((Delta({"content": "Slowly"}), Pause(60.0)))


class Chain:
    """A server that dies again and again."""

    def __init__(self, directory: Path, base_url: str) -> None:
        self._control = directory / "control"
        settings = {"openai.base_url": base_url, "sandbox.guest_python": sys.executable, "runs.lease_seconds": 300}
        self.server = ServerProcess(directory, settings, ("tests.support.mortal_server", str(self._control)))

    async def meet(self, point: Point) -> Outcome:
        outcome = Outcome()
        async with Api(self.server.address) as api:
            assistant = await api.assistant(point.scenario, LOOKUP if point.scenario == "waiting" else CODE_INTERPRETER)
            thread = await api.thread("Go.")
            ttl = seconds(2.0) if point.scenario == "expired" else None
            request = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id, ttl=ttl)
            run = (await api.runs.CreateRun(request)).run
            with suppress(grpc.aio.AioRpcError):
                await self._follow(api, point, run, outcome)
        outcome.died = await asyncio.to_thread(self.server.ends_within, 1.0)
        if not outcome.died:
            await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        async with Api(self.server.address) as api:
            if point.scenario == "expired":
                await api.settled(run)
                outcome.stored = await api.stored_events(run.id)
            else:
                await self._delete_again(api, thread, run, outcome)
        outcome.end = check_run(next(self.server.data_directory.glob("*.db")), run.id)
        return outcome

    async def _follow(self, api: Api, point: Point, run: v1.Run, outcome: Outcome) -> None:
        deletion: asyncio.Task[object] | None = None
        try:
            async for event in api.follow(run.id):
                outcome.seen.append(event)
                if deletion is None and event_name(event) == _REACHED[point.scenario]:
                    if point.scenario == "executing" and "it runs" not in str(event):
                        continue
                    self._control.write_text(f"{point.commit} {point.when}")
                    os.kill(self.server.pid, signal.SIGUSR1)
                    if point.scenario != "expired":
                        deletion = asyncio.ensure_future(delete(api, run.thread_id))
        finally:
            if deletion is not None:
                with suppress(grpc.aio.AioRpcError):
                    await deletion

    async def _delete_again(self, api: Api, thread: v1.Thread, run: v1.Run, outcome: Outcome) -> None:
        """As a client does whose first call was not answered."""
        with suppress(grpc.aio.AioRpcError):
            await api.threads.GetThread(v1.GetThreadRequest(thread_id=thread.id))
            outcome.was_there = True
        if outcome.was_there:
            outcome.stored = await api.stored_events(run.id)
            await delete(api, thread.id)
        outcome.refusals = [
            await reason_of(delete(api, thread.id)),
            await reason_of(api.say(thread.id, "Still there?")),
            await reason_of(api.runs.GetRun(v1.GetRunRequest(run_id=run.id))),
            await reason_of(api.runs.ListRuns(v1.ListRunsRequest(thread_id=thread.id))),
        ]


async def reason_of(attempt: Awaitable[object]) -> str:
    """Why a call was refused; nothing when it was not."""
    refusal = Refusal()
    try:
        await attempt
    except grpc.aio.AioRpcError as error:
        read_refusal(error, refusal)
    return refusal.reason


async def delete(api: Api, thread_id: str) -> None:
    await api.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread_id))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[Point, Outcome]]:
    """All points, by servers that die one after another."""
    waiting = list(POINTS)
    found: dict[Point, Outcome] = {}

    async def run_chain(number: int, base_url: str) -> None:
        chain = Chain(tmp_path_factory.mktemp(f"chain-{number}"), base_url)
        with chain.server:
            while waiting:
                point = waiting.pop(0)
                found[point] = await chain.meet(point)

    async with ScriptedModel(answer, models=tuple(_COMMITS)) as endpoint:
        await asyncio.gather(*(run_chain(number, endpoint.base_url) for number in range(_CHAINS)))
    yield found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", [point for point in POINTS if point.scenario != "expired"], ids=str)
async def test_deletion_outlives_the_death_of_its_server(outcomes: dict[Point, Outcome], point: Point) -> None:
    outcome = outcomes[point]
    # Once it is begun it is done, by the next server if not by this one; and what was not begun has changed nothing.
    if outcome.was_there:
        assert outcome.died, "the deletion was answered"
        assert "run.cancelling" not in [event_name(event) for event in outcome.stored]
        assert outcome.stored[: len(outcome.seen)] == outcome.seen
    assert outcome.refusals == ["THREAD_NOT_FOUND", "THREAD_NOT_FOUND", "RUN_NOT_FOUND", "THREAD_NOT_FOUND"]
    assert outcome.end == "deleted"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", [point for point in POINTS if point.scenario == "expired"], ids=str)
async def test_expiry_outlives_the_death_of_its_server(outcomes: dict[Point, Outcome], point: Point) -> None:
    outcome = outcomes[point]
    assert outcome.end == "expired"
    assert outcome.stored[: len(outcome.seen)] == outcome.seen


async def test_servers_did_die_on_both_sides_of_a_deletion(outcomes: dict[Point, Outcome]) -> None:
    assert all(outcome.died for point, outcome in outcomes.items() if point.commit == 1)
    deletions = [outcome for point, outcome in outcomes.items() if point.scenario != "expired"]
    assert {outcome.was_there for outcome in deletions if outcome.died} == {True, False}
