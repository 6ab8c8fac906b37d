"""Streams that create their run, dropped before there is one."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from afarensis import v1 as pb
from afarensis_server.calls import CallLimits, Calls
from afarensis_server.domain.runs import RunStatus
from afarensis_server.rpc.disconnects import Context
from afarensis_server.rpc.interceptor import CallInterceptor
from afarensis_server.rpc.services.runs import RunServicer
from afarensis_server.runs.service import Runs
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from tests.integration.runs.conftest import PROJECT, build
from tests.support.scripted_model import ScriptedModel, Wait, text


class Watched(RunServicer):
    """The service, which also tells which task has the call."""

    def __init__(self, runs: Runs, calls: Calls) -> None:
        super().__init__(runs, calls)
        self.handler: asyncio.Future[asyncio.Task[object]] = asyncio.get_running_loop().create_future()

    async def CreateRunStream(
        self, request: pb.CreateRunStreamRequest, context: Context
    ) -> AsyncIterator[pb.CreateRunStreamResponse]:
        task = asyncio.current_task()
        assert task is not None
        self.handler.set_result(task)
        responses: Any = super().CreateRunStream(request, context)
        async with aclosing(responses) as items:
            async for item in items:
                yield item


@asynccontextmanager
async def serving(runs: Runs) -> AsyncIterator[tuple[pb.RunServiceStub, Watched]]:
    calls = Calls(CallLimits())
    server = grpc.aio.server(interceptors=(CallInterceptor(calls),))
    servicer = Watched(runs, calls)
    pb.add_RunServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield pb.RunServiceStub(channel), servicer
    finally:
        await server.stop(None)


@pytest.mark.parametrize("with_thread", [False, True], ids=["CreateRun", "CreateThreadAndRun"])
async def test_run_whose_client_left_while_it_was_created_is_cancelled(
    database: Database, tmp_path: Path, with_thread: bool
) -> None:
    async with (
        ScriptedModel([text("Well").then(Wait(asyncio.Event()))]) as endpoint,
        build(database, tmp_path, endpoint) as house,
        serving(house.runs) as (stub, servicer),
    ):
        assistant, thread = await house.assistant(), await house.thread()
        run = pb.CreateRunRequest(assistant_id=assistant.id)
        request = pb.CreateRunStreamRequest(cancel_on_disconnect=True)
        if with_thread:
            request.thread_and_run.run.CopyFrom(run)
        else:
            run.thread_id = thread.id
            request.run.CopyFrom(run)
        release = threading.Event()
        # The run waits for the writer until its client has left for good.
        holding = asyncio.create_task(database.write(lambda _: release.wait(), long=True))
        call = stub.CreateRunStream(request)
        try:
            async with asyncio.timeout(30):
                handler = await servicer.handler
                call.cancel()
                while not handler.cancelling():  # noqa: ASYNC110  nobody tells
                    await asyncio.sleep(0.001)
        finally:
            release.set()
        await holding
        await asyncio.wait([handler])
        (created,) = (await house.runs.list(PROJECT, PageRequest())).items
        assert (await house.settled(created)).status is RunStatus.CANCELLED
