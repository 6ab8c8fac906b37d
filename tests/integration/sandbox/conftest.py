from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from afarensis_server.sandbox.driver import InputFile, SandboxDriver, SandboxSession
from tests.support.sandbox import make_driver, opened, parametrize_drivers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_drivers(metafunc, every_test=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SandboxDriver]:
    async with make_driver(request, tmp_path_factory.mktemp("sandbox"), max_sessions=8) as driver:
        yield driver


@pytest_asyncio.fixture(loop_scope="session")
async def session(driver: SandboxDriver) -> AsyncIterator[SandboxSession]:
    async with opened(driver) as session:
        yield session


@pytest.fixture
def input_file(tmp_path: Path) -> Callable[..., InputFile]:
    """Makes a file of the host for a session."""

    def make(name: str, content: bytes = b"a,b\n1,2\n", file_id: str = "file-1") -> InputFile:
        path = tmp_path / f"{file_id}.blob"
        path.write_bytes(content)
        return InputFile(file_id=file_id, name=name, path=path, size_bytes=len(content))

    return make
