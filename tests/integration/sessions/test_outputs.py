"""What of an execution's files is kept, in real sandboxes: no code makes the server's disk its own."""

import time
from dataclasses import replace
from pathlib import Path

from afarensis_server.domain.executions import ExceededLimit, ExecutionResult, FileItem
from afarensis_server.sessions.outputs import OutputLimits
from afarensis_server.store.database import Database
from tests.support.house import PROJECT, House, build
from tests.support.sandbox import LIMITS, MIB


async def _told(house: House, code: str) -> tuple[list[FileItem], ExecutionResult]:
    """The files that code changed in a session of its own, and how it ended."""
    row = await house.sessions.create(PROJECT, None)
    events = await house.events(await house.sessions.live(PROJECT, row.id), code)
    result = events[-1]
    assert isinstance(result, ExecutionResult)
    return [event for event in events if isinstance(event, FileItem)], result


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


async def test_sparse_files_take_nothing_of_the_host_s_disk(database: Database, tmp_path: Path) -> None:
    sparse = """
import os
for i in range(100):
    with open(f's{i}', 'wb') as file:
        file.write(os.urandom(8)); file.truncate(15 << 20)
open('honest.txt', 'w').write('x')
"""
    async with build(database, tmp_path) as house:
        began = time.monotonic()
        files, _ = await _told(house, sparse)
        assert time.monotonic() - began < 10
        assert {file.path.rsplit("/", 1)[-1] for file in files if file.file is not None} == {"honest.txt"}
        assert {file.size_bytes for file in files if file.file is None} == {15 << 20}
        assert _bytes_below(tmp_path / "blobs") < MIB


async def test_the_bytes_kept_of_one_execution_are_limited(database: Database, tmp_path: Path) -> None:
    code = "import os\nfor i in range(6): open(f'f{i}', 'wb').write(os.urandom(2 << 20))"
    async with build(database, tmp_path, OutputLimits(bytes=5 * MIB)) as house:
        files, result = await _told(house, code)
        assert [file.file is not None for file in files] == [True, True, False, False, False, False]
        assert result.exceeded_limits == (ExceededLimit("kept_bytes", 5 * MIB, 12 * MIB),)


async def test_the_files_kept_of_one_execution_are_limited(database: Database, tmp_path: Path) -> None:
    code = "for i in range(20): open(f'f{i:02}', 'w').write('x')"
    async with build(database, tmp_path, OutputLimits(files=5)) as house:
        files, result = await _told(house, code)
        assert [file.file is not None for file in files] == [True] * 5 + [False] * 15
        assert result.exceeded_limits == (ExceededLimit("kept_files", 5, 20),)


async def test_each_execution_has_a_share_of_its_own(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path, OutputLimits(files=1)) as house:
        live = await house.sessions.live(PROJECT, (await house.sessions.create(PROJECT, None)).id)
        for name in "abc":
            _, (file,), _ = await house.run(live, f"open('{name}', 'w').write('x')")
            assert file.file is not None


async def test_the_seconds_that_keeping_takes_are_limited(database: Database, tmp_path: Path) -> None:
    code = "import os\nfor i in range(200): open(f'f{i:03}', 'wb').write(os.urandom(8))"
    async with build(database, tmp_path, OutputLimits(seconds=0.05)) as house:
        files, result = await _told(house, code)
        assert len(files) == 200
        assert sum(file.file is not None for file in files) < 150
        assert [limit.name for limit in result.exceeded_limits] == ["keep_seconds"]


async def test_an_archive_that_unpacks_to_more_than_the_disk_ends_at_the_disk(
    database: Database, tmp_path: Path
) -> None:
    bomb = """
import zipfile
with zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    for i in range(8): archive.writestr(f'zeros{i}', bytes(8 << 20))
with zipfile.ZipFile('bomb.zip') as archive: archive.extractall()
"""
    async with build(database, tmp_path, limits=replace(LIMITS, disk_bytes=16 * MIB)) as house:
        files, result = await _told(house, bomb)
        assert result.error is not None
        assert "No space left" in result.error.value
        assert [(limit.name, limit.limit) for limit in result.exceeded_limits] == [("disk_bytes", 16 * MIB)]
        assert sum(file.size_bytes for file in files) <= 16 * MIB
        assert _bytes_below(tmp_path / "blobs") <= 16 * MIB


async def test_thousands_of_files_are_told_within_seconds(database: Database, tmp_path: Path) -> None:
    code = "import os\nfor i in range(2500): open(f'f{i:04}', 'w').write(str(i))"
    limits = replace(LIMITS, disk_inodes=3000)
    async with build(database, tmp_path, OutputLimits(files=200), limits) as house:
        began = time.monotonic()
        files, result = await _told(house, code)
        assert time.monotonic() - began < 10
        assert sum(file.file is not None for file in files) == 200
        assert result.exceeded_limits == (ExceededLimit("kept_files", 200, 2500),)
