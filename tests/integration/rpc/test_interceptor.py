"""Every call's frame, around servicers that do what ours must never do."""

import asyncio
import gc
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from google.rpc.error_details_pb2 import ErrorInfo, RequestInfo
from google.rpc.status_pb2 import Status

from afarensis import v1 as pb
from afarensis_server.calls import CallLimits, Calls
from afarensis_server.logs import configure_logs
from afarensis_server.rpc.context import project
from afarensis_server.rpc.disconnects import Context
from afarensis_server.rpc.interceptor import CallInterceptor

# Servicers are abstract to mypy; those here have no more than the method that a test calls.
ThreadServicer: Any = pb.ThreadServiceServicer
FileServicer: Any = pb.FileServiceServicer

SECRET = "what the user wrote"
PIECE = bytes(1024 * 1024)


class Models(pb.ModelServiceServicer):
    """Fails as only a defect does."""

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        raise KeyError(SECRET)


class Threads(ThreadServicer):  # type: ignore[misc]  # see above
    """Tells the project of the call."""

    async def GetThread(self, request: pb.GetThreadRequest, context: Context) -> pb.GetThreadResponse:
        return pb.GetThreadResponse(thread=pb.Thread(id=project()))


class Files(FileServicer):  # type: ignore[misc]  # see above
    """Streams for ever, and tells when it was let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.released = asyncio.Event()

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Context
    ) -> AsyncIterator[pb.DownloadFileResponse]:
        try:
            while True:
                yield pb.DownloadFileResponse(data=PIECE)
                self.begun.set()
                if not request.limit_bytes:
                    await asyncio.Event().wait()
        finally:
            # Cleaning up may take a while.
            await asyncio.sleep(0)
            self.released.set()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    yield stream
    structlog.reset_defaults()


@asynccontextmanager
async def serving(files: Files | None = None, limits: CallLimits | None = None) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=(CallInterceptor(Calls(limits or CallLimits())),))
    pb.add_ModelServiceServicer_to_server(Models(), server)
    pb.add_ThreadServiceServicer_to_server(Threads(), server)
    pb.add_FileServiceServicer_to_server(files or Files(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def test_defect_is_internal_and_says_nothing_but_where_to_look(log: io.StringIO) -> None:
    async with serving() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await pb.ModelServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=(("x-request-id", "r-1"),))
    error = failed.value
    trailers: Any = dict(error.trailing_metadata())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert error.code() is grpc.StatusCode.INTERNAL
    assert ErrorInfo.FromString(status.details[0].value).reason == "INTERNAL"
    assert RequestInfo.FromString(status.details[1].value).request_id == "r-1"
    assert SECRET not in str(error)


async def test_defect_is_logged_with_its_frames_and_without_its_message(log: io.StringIO) -> None:
    async with serving() as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await pb.ModelServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=(("x-request-id", "r-1"),))
    defect, call = (json.loads(line) for line in log.getvalue().splitlines())
    assert (defect["event"], defect["request_id"]) == ("defect", "r-1")
    assert defect["traceback"][-1] == "builtins.KeyError"
    assert "in ListModels" in defect["traceback"][-2]
    assert (call["event"], call["status"]) == ("call", "INTERNAL")
    assert SECRET not in log.getvalue()


async def test_call_belongs_to_the_default_project(log: io.StringIO) -> None:
    async with serving() as channel:
        response = await pb.ThreadServiceStub(channel).GetThread(pb.GetThreadRequest(thread_id="thread_x"))
    assert response.thread.id == "default"


@pytest.mark.parametrize("limit_bytes", [0, 1], ids=["while it waits", "while its messages cannot be sent"])
async def test_client_that_goes_away_releases_all_at_once(log: io.StringIO, limit_bytes: int) -> None:
    files = Files()
    gc.disable()
    try:
        async with serving(files) as channel:
            request = pb.DownloadFileRequest(file_id="file_x", limit_bytes=limit_bytes)
            call = pb.FileServiceStub(channel).DownloadFile(request)
            await anext(aiter(call))
            await files.begun.wait()
            call.cancel()
            async with asyncio.timeout(10):
                await files.released.wait()
    finally:
        gc.enable()
    assert '"status": "CANCELLED"' in log.getvalue()


async def test_deadline_releases_all_at_once(log: io.StringIO) -> None:
    files = Files()
    async with serving(files) as channel:
        call = pb.FileServiceStub(channel).DownloadFile(pb.DownloadFileRequest(file_id="file_x"), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for _ in call:
                pass
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(10):
            await files.released.wait()


async def test_streams_beyond_their_limit_are_refused_and_short_calls_go_on(log: io.StringIO) -> None:
    files = Files()
    async with serving(files, CallLimits(calls=1, streams=1)) as channel:
        stub = pb.FileServiceStub(channel)
        first = stub.DownloadFile(pb.DownloadFileRequest(file_id="file_x"))
        await anext(aiter(first))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await anext(aiter(stub.DownloadFile(pb.DownloadFileRequest(file_id="file_x"))))
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1 streams already" in (failed.value.details() or "")
        await pb.ThreadServiceStub(channel).GetThread(pb.GetThreadRequest(thread_id="thread_x"))
        first.cancel()


async def test_request_without_the_id_it_needs_is_refused_before_it_is_served(log: io.StringIO) -> None:
    async with serving() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await pb.ThreadServiceStub(channel).GetThread(pb.GetThreadRequest())
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details() == "Missing required parameter: 'thread_id'."
