from collections.abc import Iterator

import grpc
import pytest

from afarensis import v1 as pb
from tests.support.server_process import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that do not change how it runs."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="session")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="session")
def assistants(channel: grpc.Channel) -> pb.AssistantServiceStub:
    return pb.AssistantServiceStub(channel)


@pytest.fixture(scope="session")
def threads(channel: grpc.Channel) -> pb.ThreadServiceStub:
    return pb.ThreadServiceStub(channel)


@pytest.fixture(scope="session")
def files(channel: grpc.Channel) -> pb.FileServiceStub:
    return pb.FileServiceStub(channel)


@pytest.fixture(scope="session")
def runs(channel: grpc.Channel) -> pb.RunServiceStub:
    return pb.RunServiceStub(channel)


@pytest.fixture(scope="session")
def sessions(channel: grpc.Channel) -> pb.SessionServiceStub:
    return pb.SessionServiceStub(channel)


@pytest.fixture
def thread(threads: pb.ThreadServiceStub) -> pb.Thread:
    return threads.CreateThread(pb.CreateThreadRequest()).thread


@pytest.fixture
def file(files: pb.FileServiceStub) -> pb.File:
    return files.CreateFile(pb.CreateFileRequest(filename="data.csv", content=b"a,b\n1,2\n")).file
