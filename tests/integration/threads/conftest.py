from pathlib import Path

import pytest

from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files
from afarensis_server.store.database import Database
from afarensis_server.threads.service import ThreadLimits, Threads


@pytest.fixture
def files(database: Database, tmp_path: Path) -> Files:
    return Files(database, DirectoryBlobs(tmp_path / "blobs"), FileLimits())


@pytest.fixture
def threads(database: Database) -> Threads:
    return Threads(database, ThreadLimits())
