"""The places that the local driver makes ahead: who gets them, and that nothing but time tells them from others."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import ExecutionStatus, InputFile, SessionSpec
from afarensis_server.sandbox.local import LocalSandbox
from afarensis_server.sandbox.local.place import Place
from tests.support.sandbox import LIMITS, MIB, local, opened, process_of, run


async def ready_places(driver: LocalSandbox) -> list[Place]:
    """What is ready once the pool is full."""
    assert driver._pool is not None
    async with asyncio.timeout(20):
        await driver._pool.settle()
    return list(driver._pool._ready)


async def test_a_session_takes_the_place_that_was_made_for_it(tmp_path: Path) -> None:
    async with local(tmp_path, pool_size=1, usual_limits=LIMITS) as driver:
        (place,) = await ready_places(driver)
        async with opened(driver) as session:
            assert process_of(session) == place.interpreter.pid
            assert (await run(session, "1 + 1")).value == "2"


async def test_a_session_with_other_limits_of_memory_and_processes_takes_it_too_and_is_bound_to_them(
    tmp_path: Path,
) -> None:
    generous = replace(LIMITS, memory_bytes=1024 * MIB, processes=200, open_files=600)
    async with local(tmp_path, pool_size=1, usual_limits=generous) as driver:
        (place,) = await ready_places(driver)
        async with opened(driver) as session:
            assert process_of(session) == place.interpreter.pid
            files = await run(session, "import resource; resource.getrlimit(resource.RLIMIT_NOFILE)")
            assert files.value == f"({LIMITS.open_files}, {LIMITS.open_files})"
            hog = await run(session, "data = bytearray(b'x') * (300 * 2**20)")
            assert hog.status is ExecutionStatus.OUT_OF_MEMORY
            assert "256 MiB" in hog.result.error.value  # type: ignore[union-attr] # it failed
            threads = await run(session, "import subprocess\nfor _ in range(300): subprocess.Popen(['sleep', '9'])")
            assert threads.status is ExecutionStatus.ERROR


async def test_a_session_with_more_memory_than_usual_gets_it(tmp_path: Path) -> None:
    async with local(tmp_path, pool_size=1, usual_limits=LIMITS) as driver:
        (place,) = await ready_places(driver)
        async with opened(driver, memory_bytes=512 * MIB) as session:
            assert process_of(session) == place.interpreter.pid
            assert (await run(session, "len(bytearray(b'x') * (300 * 2**20))")).value == str(300 * MIB)


async def test_a_session_with_another_disk_gets_a_place_of_its_own_and_the_pool_learns_from_it(tmp_path: Path) -> None:
    async with local(tmp_path, pool_size=1, usual_limits=LIMITS) as driver:
        for _ in range(3):
            async with opened(driver, disk_bytes=4 * MIB) as session:
                cell = await run(session, "open('big', 'wb').write(bytes(6 * 2**20))")
                assert "disk_bytes" in cell.exceeded
        assert [place.limits.disk_bytes for place in await ready_places(driver)] == [4 * MIB]


async def test_files_are_seen_where_somebody_looked_for_them_before(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    file = InputFile("file-1", "data/in.csv", source, 7)
    async with local(tmp_path, pool_size=1, usual_limits=LIMITS) as driver:
        (place,) = await ready_places(driver)
        # Now overlayfs remembers that there is no such directory, and shows what comes later to nobody.
        with pytest.raises(FileNotFoundError):
            os.stat("data", dir_fd=place.view)
        session = await driver.open(SessionSpec("session", LIMITS, (file,)))
        try:
            cell = await run(session, "print(open('data/in.csv').read(), open('file-1').read())")
            assert cell.stdout == "content content\n"
        finally:
            await session.close()
