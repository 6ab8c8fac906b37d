"""The server is killed at each commit of a run, before it and after it, and started again on the same data.

Whatever the moment: what a reader saw is in the log, the log has no gaps and one end, rows agree with it, code ran once
at most, the thread is free, and the run has come to an end that is true.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from afarensis import v1
from tests.support.api import CODE_INTERPRETER, LOOKUP, Api
from tests.support.invariants import check_run
from tests.support.mortal_server import executed_file
from tests.support.scripted_model import Delta, Pause, Request, ScriptedModel, Turn, call, calls, code, text
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

_OVER = {
    v1.RUN_STATUS_COMPLETED,
    v1.RUN_STATUS_FAILED,
    v1.RUN_STATUS_CANCELLED,
    v1.RUN_STATUS_EXPIRED,
    v1.RUN_STATUS_INCOMPLETE,
}
#: Chains of servers that are killed and started side by side.
_CHAINS = 2
#: What models have run.
_SHORT, *_PARALLEL = "print('ran')", "print(0)", "print(1)"
_PRINTING = "import time\nfor n in range(6):\n    print(n, flush=True)\n    time.sleep(0.05)"
_CODE = {_SHORT, *_PARALLEL, _PRINTING}
#: Commits of a run of each kind. The last points may come when it is over.
_COMMITS = {"plain": 3, "code": 5, "parallel": 5, "printing": 4, "function": 6, "cancelled": 3}


@dataclass(frozen=True, slots=True)
class Point:
    """When the server dies: at so many commits from the call that creates the run."""

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
    run: v1.Run = field(default_factory=v1.Run)
    events: list[v1.RunEvent] = field(default_factory=list)
    messages: list[v1.Message] = field(default_factory=list)
    #: Whether the server had died by itself, at its point, and not when all was over.
    died: bool = False
    #: The runs of the thread.
    listed: list[str] = field(default_factory=list)
    database: Path = Path()
    #: The code that interpreters were given.
    executed: list[str] = field(default_factory=list)
    is_free: bool = False


def answer(request: Request) -> Turn:
    """What the model says: by its name, and by what it was told last."""
    scenario = request.body["model"]
    if request.body["messages"][-1]["role"] == "tool" or scenario == "plain":
        return text("All ", "is ", "well.")
    match scenario:
        case "parallel":
            return calls(*(("call", "code_interpreter", {"code": source}) for source in _PARALLEL))
        case "printing":
            return code(_PRINTING)
        case "function":
            return call("lookup", {"word": "x"})
        case "cancelled":
            return Turn((Delta({"content": "Slowly"}), Pause(30.0)))
    return code(_SHORT)


class Chain:
    """A server that dies again and again, and what its clients do."""

    def __init__(self, directory: Path, base_url: str) -> None:
        self._control = directory / "control"
        self._executed = executed_file(self._control)
        #: How many lines of it are those of earlier points.
        self._known = 0
        # Any Python will do for the code: without the libraries of the guest environment it starts twice as fast.
        settings = {"openai.base_url": base_url, "sandbox.guest_python": sys.executable, "runs.lease_seconds": 300}
        self.server = ServerProcess(directory, settings, ("tests.support.mortal_server", str(self._control)))

    async def meet(self, point: Point) -> Outcome:
        """Let the server die at a point, start it again, and let the run come to its end."""
        outcome = Outcome()
        async with Api(self.server.address) as api:
            tool = LOOKUP if point.scenario == "function" else CODE_INTERPRETER
            assistant, thread = await api.assistant(point.scenario, tool), await api.thread("Go.")
            request = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id, request_id=thread.id)
            self._control.write_text(f"{point.commit} {point.when}")
            os.kill(self.server.pid, signal.SIGUSR1)
            with suppress(grpc.aio.AioRpcError):
                await self._use(api, request, outcome)
        # A client may learn of it a little sooner than the kernel says so.
        outcome.died = await asyncio.to_thread(self.server.ends_within, 1.0)
        if not outcome.died:
            await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        async with Api(self.server.address) as api:
            await self._look(api, point, request, outcome)
        # Not what the server itself runs when it starts, to see how sandboxes are closed.
        executed = [code for code in map(json.loads, self._executed.read_text().splitlines()) if code in _CODE]
        outcome.executed, self._known = executed[self._known :], len(executed)
        return outcome

    async def _use(self, api: Api, request: v1.CreateRunRequest, outcome: Outcome) -> None:
        """What a client does, until it is done or the server is gone."""
        run = (await api.runs.CreateRun(request)).run
        async for event in api.follow(run.id):
            outcome.seen.append(event)
            match event.type:
                case v1.RUN_EVENT_TYPE_THREAD_RUN_REQUIRES_ACTION:
                    await submit(api, event.run)
                case v1.RUN_EVENT_TYPE_THREAD_MESSAGE_DELTA if event.message_delta.content[0].text.value == "Slowly":
                    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))

    async def _look(self, api: Api, point: Point, request: v1.CreateRunRequest, outcome: Outcome) -> None:
        """Bring the run to its end after the restart, and look at all that there is."""
        # As a client does that cannot know whether it was heard: ask for the same once more.
        run = (await api.runs.CreateRun(request)).run
        if point.scenario == "cancelled":
            with suppress(grpc.aio.AioRpcError):  # it is over
                await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
        for event in outcome.seen:
            if event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_REQUIRES_ACTION:
                await submit(api, event.run)  # whether the first time or once more
        run = await api.settled(run)
        if run.status == v1.RUN_STATUS_REQUIRES_ACTION:
            await submit(api, run)
            run = await api.settled(run)
        outcome.run = run
        outcome.events = await api.stored_events(run.id)
        thread_id = request.thread_id
        outcome.listed = [run.id for run in (await api.runs.ListRuns(v1.ListRunsRequest(thread_id=thread_id))).runs]
        outcome.messages = [message for message in await api.messages(thread_id) if message.run_id == run.id]
        outcome.database = next(self.server.data_directory.glob("*.db"))
        with suppress(grpc.aio.AioRpcError):
            await api.say(thread_id, "Still there?")
            outcome.is_free = True


async def submit(api: Api, run: v1.Run) -> None:
    waiting = run.required_action.submit_tool_outputs.tool_calls
    outputs = [v1.ToolOutput(tool_call_id=call.id, output="found") for call in waiting]
    await api.runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=run.id, tool_outputs=outputs))


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
@pytest.mark.parametrize("point", POINTS, ids=str)
async def test_run_outlives_the_death_of_its_server(outcomes: dict[Point, Outcome], point: Point) -> None:
    outcome = outcomes[point]
    assert outcome.is_free
    assert outcome.listed == [outcome.run.id], "it was created once, though asked for again"
    if (point.commit, point.when) == (1, "before"):
        # Nothing was stored, so nobody can have been told.
        assert outcome.seen == []
    events = outcome.events
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[: len(outcome.seen)] == outcome.seen
    ends = [event for event in events if event.HasField("run") and event.run.status in _OVER]
    assert ends == [events[-1]]
    assert events[-1].run == outcome.run
    stored = check_run(outcome.database, outcome.run.id)
    assert f"RUN_STATUS_{stored.upper()}" == v1.RunStatus.Name(outcome.run.status)

    # Code ran once at most: no second execution of the same call, none at all of a call that has failed before.
    began = [
        call.code_interpreter.execution_id
        for event in events
        for call in event.run_step_delta.tool_calls
        if call.code_interpreter.execution_id
    ]
    assert len(began) == len(set(began)) <= (2 if point.scenario == "parallel" else 1)
    assert len(outcome.executed) == len(set(outcome.executed)) <= len(began)
    check_end(point, outcome)


def check_end(point: Point, outcome: Outcome) -> None:
    """The run ended as it would have, or says what happened to it."""
    run = outcome.run
    if run.status == v1.RUN_STATUS_FAILED:
        assert point.scenario in ("code", "parallel", "printing")
        assert run.last_error.reason == "CODE_INTERRUPTED"
        return
    if point.scenario == "cancelled":
        assert run.status == v1.RUN_STATUS_CANCELLED
        return
    assert run.status == v1.RUN_STATUS_COMPLETED
    if point.scenario in ("code", "printing"):
        assert len(outcome.executed) == 1
    assert outcome.messages[-1].content[0].text.value == "All is well."


async def test_servers_did_die_at_their_points(outcomes: dict[Point, Outcome]) -> None:
    assert sum(outcome.died for outcome in outcomes.values()) >= 45
