"""A real server process, a channel to it, and a model endpoint that answers by script."""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.support.api import Api
from tests.support.scripted_model import ScriptedModel, Turn
from tests.support.scripts import Script, Scripts
from tests.support.server_process import ServerProcess


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripts() -> AsyncIterator[Scripts]:
    """The model endpoint of the session's servers."""
    scripts = Scripts()
    async with ScriptedModel(scripts.next_turn) as endpoint:
        scripts.base_url = endpoint.base_url
        yield scripts


@pytest.fixture
def script(scripts: Scripts) -> Callable[..., Script]:
    """Adds a model that answers by script: ``script(code("1/0"), text("It failed."))``."""

    def add(*turns: Turn) -> Script:
        return scripts.add(*turns)

    return add


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """The server that most tests share."""
    settings = {"openai.base_url": scripts.base_url, "openai.max_retries": 0, "http.listen": "127.0.0.1:0"}
    with ServerProcess(tmp_path_factory.mktemp("server"), settings) as process:
        yield process


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with Api(server.address) as api:
        yield api
