from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from afarensis_server.sandbox.driver import SandboxDriver, SandboxSession
from tests.support.sandbox import make_driver, opened, parametrize_drivers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_drivers(metafunc, every_test=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SandboxDriver]:
    async with make_driver(request, tmp_path_factory.mktemp("security")) as driver:
        yield driver


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_session(driver: SandboxDriver) -> AsyncIterator[SandboxSession]:
    """One for all tests that leave nothing behind in it that another would mind."""
    async with opened(driver) as session:
        yield session


@pytest_asyncio.fixture(loop_scope="session")
async def session(
    request: pytest.FixtureRequest, driver: SandboxDriver, shared_session: SandboxSession
) -> AsyncIterator[SandboxSession]:
    if request.node.get_closest_marker("shares_session") and driver.name == "docker":
        yield shared_session  # a container for each would take most of the time
        return
    async with opened(driver) as session:
        yield session
