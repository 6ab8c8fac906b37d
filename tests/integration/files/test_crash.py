import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest


def kill_in_mid_work(directory: Path, after_files: int) -> set[str]:
    """Kill a process that uploads and deletes after it has told of so many files that it keeps; tells which."""
    churn = [sys.executable, str(Path(__file__).with_name("churn.py")), str(directory)]
    with subprocess.Popen(churn, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = {process.stdout.readline().strip() for _ in range(after_files)}
        process.kill()
    return told


@pytest.mark.parametrize("after_files", [1, 20, 61])
async def test_kill_loses_no_stored_file_and_leaves_none_without_its_content(tmp_path: Path, after_files: int) -> None:
    told = kill_in_mid_work(tmp_path, after_files)
    async with Database(f"sqlite:///{tmp_path}/afarensis.db") as database:
        files = Files(database, DirectoryBlobs(tmp_path / "blobs"), FileLimits())
        await files.sweep()
        token, found, hashes = "", set(), set()
        while True:
            page = await files.list("default", PageRequest(100, token))
            for file in page.items:
                _, content = await files.read("default", file.id)
                assert hashlib.sha256(content).hexdigest() == file.sha256
                found.add(file.id)
                hashes.add(file.sha256)
            if not (token := page.next_token):
                break
        assert {path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()} == hashes
        assert told <= found
