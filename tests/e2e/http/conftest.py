"""The official SDK on the shared server, and bare HTTP."""

from collections.abc import AsyncIterator

import httpx2
import pytest_asyncio
from openai import AsyncOpenAI

from tests.support.server_process import ServerProcess


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sdk(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="sk-anything", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http(server: ServerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as client:
        yield client
