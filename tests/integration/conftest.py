from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from afarensis_server.store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(f"sqlite:///{tmp_path}/afarensis.db") as opened:
        yield opened
