from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from afarensis_server.sandbox.driver import InputFile, SandboxDriver, SandboxSession
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from tests.support.sandbox import guest_python, opened


def _local(directory: Path) -> SandboxDriver:
    settings = LocalSandboxSettings(
        guest_python=guest_python(), work_directory=directory / "work", grace_seconds=1.0, max_sessions=8
    )
    return LocalSandbox(settings)


#: Every driver runs the same suite.
DRIVERS: dict[str, Callable[[Path], SandboxDriver]] = {"local": _local}


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=DRIVERS)
async def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SandboxDriver]:
    async with DRIVERS[request.param](tmp_path_factory.mktemp("sandbox")) as driver:
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
