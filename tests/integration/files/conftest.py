from pathlib import Path

import pytest

from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files
from afarensis_server.store.database import Database


@pytest.fixture
def blob_directory(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def files(database: Database, blob_directory: Path) -> Files:
    return Files(database, DirectoryBlobs(blob_directory), FileLimits())
