from collections.abc import Iterator

import pytest

import afarensis

from .scripted_server import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[afarensis.Client]:
    with afarensis.connect(server.target, api_key="secret", give_up_after=5) as client:
        yield client
