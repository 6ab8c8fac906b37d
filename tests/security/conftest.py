from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from afarensis_server.sandbox.driver import SandboxSession
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from tests.support.sandbox import guest_python, opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def driver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSandbox]:
    settings = LocalSandboxSettings(
        guest_python=guest_python(), work_directory=tmp_path_factory.mktemp("security") / "work", grace_seconds=1.0
    )
    async with LocalSandbox(settings) as driver:
        yield driver


@pytest_asyncio.fixture(loop_scope="session")
async def session(driver: LocalSandbox) -> AsyncIterator[SandboxSession]:
    async with opened(driver) as session:
        yield session
