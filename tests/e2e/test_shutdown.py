"""The server is told to stop while runs are at work: one ends in time, the others go on after the next start."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from afarensis import v1
from tests.support.api import (
    CODE_INTERPRETER,
    ENDLESS,
    Api,
    Refusal,
    event_name,
    is_event,
    prints,
    read_refusal,
    refused,
    text_of,
)
from tests.support.scripted_model import Wait, code, text
from tests.support.scripts import Scripts
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(slots=True)
class Reader:
    """What a reader of a run got, until its stream ended."""

    run: v1.Run
    events: list[v1.RunEvent] = field(default_factory=list)
    #: How the stream ended: None is OK.
    refusal: Refusal | None = None
    #: Set once something was read.
    began: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, api: Api) -> None:
        try:
            async for event in api.follow(self.run.id):
                self.events.append(event)
                self.began.set()
        except grpc.aio.AioRpcError as error:
            self.refusal = Refusal()
            read_refusal(error, self.refusal)


@dataclass(slots=True)
class Drain:
    """How a server went, and what came after."""

    #: The reader of the run that could end, and of the one that could not.
    ended: Reader
    left: Reader
    #: How a call was answered that came while the server drained.
    late_call: Refusal
    exit_code: int
    #: The events of the second run behind the reader's cursor, from the next server.
    resumed: list[v1.RunEvent]
    answer: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def drain(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Drain]:
    release = asyncio.Event()
    quick = scripts.add(text("To be ").then(Wait(release)).then(*text("continued.").steps))
    slow = scripts.add(text("Not in ").then(Wait(asyncio.Event())), text("Now."))
    settings = {
        "openai.base_url": scripts.base_url,
        "openai.max_retries": 0,
        "server.drain_seconds": 2,
        "runs.lease_seconds": 300,
    }
    with ServerProcess(tmp_path_factory.mktemp("shutdown"), settings) as server:
        async with Api(server.address) as api:
            ended, left = Reader(await api.run(quick.model)), Reader(await api.run(slow.model))
            for reader in (ended, left):
                await api.until(reader.run.id, is_event("message.delta"))
            health = _watch_health(api)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            async with asyncio.TaskGroup() as readers:
                readers.create_task(ended.read(api))
                readers.create_task(left.read(api))
                await asyncio.gather(ended.began.wait(), left.began.wait())
                server.terminate()
                assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN") as late_call:
                    await api.runs.GetRun(v1.GetRunRequest(run_id=left.run.id))
                release.set()
            exit_code = await asyncio.to_thread(server.wait)
        await asyncio.to_thread(server.start)
        async with Api(server.address) as api:
            # At once, and not when the lease of the server that stopped would have run out.
            async with asyncio.timeout(40):
                resumed = await api.events(left.run.id, left.events[-1].sequence)
            answer = text_of(await api.answer(left.run))
        yield Drain(ended, left, late_call, exit_code, resumed, answer)


def _watch_health(api: Api) -> Any:
    watch = api.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return watch(health_pb2.HealthCheckRequest())


async def test_server_that_was_told_to_stop_exits_with_success(drain: Drain) -> None:
    assert drain.exit_code == 0


async def test_run_that_can_end_in_time_ends_before_its_reader(drain: Drain) -> None:
    assert drain.ended.refusal is None
    assert drain.ended.events[-1].run.status == v1.RUN_STATUS_COMPLETED


async def test_reader_of_a_run_that_goes_on_is_told_to_come_back(drain: Drain) -> None:
    refusal = drain.left.refusal
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert refusal.retry_seconds is not None
    assert refusal.retry_seconds > 0
    assert not any(event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED for event in drain.left.events)


async def test_call_during_the_drain_is_told_when_to_come_back(drain: Drain) -> None:
    assert drain.late_call.retry_seconds is not None
    assert drain.late_call.message.startswith("The server is shutting down.")


async def test_run_that_was_left_completes_after_the_next_start(drain: Drain) -> None:
    seen = drain.left.events + drain.resumed
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert event_name(seen[-1]) == "run.completed"
    assert drain.answer == "Now."


async def test_step_whose_code_was_interrupted_says_so_and_the_run_goes_on(scripts: Scripts, tmp_path: Path) -> None:
    model = scripts.add(code(ENDLESS), text("It was interrupted.")).model
    settings = {"openai.base_url": scripts.base_url, "openai.max_retries": 0, "server.drain_seconds": 0}
    with ServerProcess(tmp_path, settings) as server:
        async with Api(server.address) as api:
            run = await api.run(model, CODE_INTERPRETER)
            await api.until(run.id, prints("line 2\n"))
        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(server.start)
        async with Api(server.address) as api:
            run = await api.settled(run)
            cut, answered = await api.steps(run)
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert answered.status == v1.RUN_STEP_STATUS_COMPLETED
    assert cut.tool_calls.tool_calls[0].code_interpreter.result.status == v1.EXECUTION_STATUS_INTERRUPTED
    assert (cut.status, cut.last_error.reason) == (v1.RUN_STEP_STATUS_FAILED, "CODE_INTERRUPTED")
    assert cut.last_error.message.startswith("The server was shut down while code of this step was executing.")
