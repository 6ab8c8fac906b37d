"""What the local driver promises beyond the protocol: its life and death, and that it leaves nothing behind."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import (
    ExecutionStatus,
    Output,
    Result,
    SandboxFull,
    SandboxUnavailable,
    SessionSpec,
)
from afarensis_server.sandbox.local import CgroupMode, LocalSandbox
from afarensis_server.sandbox.local.interpreter import unread_bytes
from tests.support.sandbox import LIMITS, REPOSITORY, local, opened, process_of, run


def processes() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def cgroups_of(server: int) -> list[str]:
    """The groups of a server's sessions, by the server's process id."""
    places = Path("/sys/fs/cgroup").glob(f"**/afarensis-{server}-*/session-*") if os.geteuid() == 0 else []
    return sorted(str(place) for place in places)


async def test_a_session_beyond_the_capacity_is_refused_until_one_closes(tmp_path: Path) -> None:
    async with local(tmp_path, max_sessions=2) as driver:
        async with opened(driver), opened(driver):
            with pytest.raises(SandboxFull):
                async with opened(driver):
                    pass
        async with opened(driver) as session:
            assert (await run(session, "1")).value == "1"


async def test_sessions_open_without_a_pool(tmp_path: Path) -> None:
    async with local(tmp_path, pool_size=0) as driver, opened(driver) as session:
        assert (await run(session, "1")).value == "1"


async def test_code_that_is_ended_in_a_session_just_opened_keeps_its_state(tmp_path: Path) -> None:
    code = "import time\nx = 7\nprint('go', flush=True)\ntime.sleep(60)"
    async with local(tmp_path, pool_size=0) as driver:
        for _ in range(3):
            async with opened(driver) as session:
                async for event in session.execute(code, timeout_seconds=30):
                    if isinstance(event, Output):
                        await session.interrupt(within_seconds=5.0)
                assert isinstance(event, Result)
                assert (event.status, event.state_lost) == (ExecutionStatus.INTERRUPTED, False)
                assert (await run(session, "x")).value == "7"


async def test_a_result_that_comes_after_the_kill_is_that_of_a_lost_interpreter(tmp_path: Path) -> None:
    async with local(tmp_path) as driver, opened(driver) as session:
        interpreter = session.place.interpreter  # type: ignore[attr-defined] # the local driver's
        events = session.execute("print('begun', flush=True)\nimport time\ntime.sleep(0.1)", timeout_seconds=30)
        assert isinstance(await anext(events), Output)
        async with asyncio.timeout(20):
            while not unread_bytes(interpreter.control.fileno()):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
        # Its result lies there when it is killed.
        await session.interrupt(within_seconds=0.0)
        async with asyncio.timeout(20):
            while not interpreter.is_killed:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
        *_, result = [event async for event in events]
        assert isinstance(result, Result)
        assert (result.status, result.state_lost) == (ExecutionStatus.INTERRUPTED, True)
        assert await session.prepare()


async def test_a_dead_zygote_is_told_and_replaced(tmp_path: Path) -> None:
    async with local(tmp_path) as driver, opened(driver) as session:
        await run(session, "x = 1; open('kept.txt', 'w').write('kept')")
        zygote = driver._launcher._zygote  # type: ignore[union-attr] # it was started
        task = asyncio.create_task(run(session, "while True: pass", timeout_seconds=30))
        await asyncio.wait([task], timeout=0.2)
        signal.pidfd_send_signal(zygote._pidfd, signal.SIGKILL)  # type: ignore[union-attr] # it was started
        cell = await asyncio.wait_for(task, 5)
        assert (cell.status, cell.result.state_lost) == (ExecutionStatus.SESSION_LOST, True)
        assert (await run(session, "open('kept.txt').read()")).value == "'kept'"
        async with opened(driver) as other:
            assert (await run(other, "2")).value == "2"


async def test_a_used_up_zygote_is_replaced_without_touching_sessions(tmp_path: Path) -> None:
    async with local(tmp_path, spawns_per_zygote=2, pool_size=0) as driver, opened(driver) as first:
        launcher = driver._launcher
        assert launcher is not None
        await run(first, "x = 1")
        old = launcher._zygote
        for _ in range(3):
            async with opened(driver) as session:
                assert (await run(session, "1")).value == "1"
        assert launcher._replacing is not None
        await launcher._replacing
        assert launcher._zygote is not old
        async with opened(driver) as session:
            assert (await run(session, "1")).value == "1"
        assert (await run(first, "x")).value == "1"


async def test_closed_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    others = cgroups_of(os.getpid())
    async with local(tmp_path, pool_size=1) as driver:
        for _ in range(2):
            async with opened(driver) as session:
                await run(session, "1")
        assert driver._pool is not None
        await driver._pool.settle()
        descriptors, groups = open_descriptors(), {Path(group).name for group in cgroups_of(os.getpid())}
        pids = []
        for _ in range(20):
            async with opened(driver) as session:
                pids.append(process_of(session))
                await run(session, "import subprocess; subprocess.Popen(['sleep', '60']); open('f', 'w').write('x')")
            await session.close()
        async with asyncio.timeout(10):
            # Each has ended. Its zygote collects it when it comes to that.
            while processes().intersection(pids):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
        await driver._pool.settle()
        assert open_descriptors() == descriptors
        # The same, which has a directory of one name in each hierarchy.
        assert len({Path(group).name for group in cgroups_of(os.getpid())}) == len(groups)
        assert len(list((tmp_path / "work" / "lower").iterdir())) == 1  # that of the place that is kept ready
    assert cgroups_of(os.getpid()) == others


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_an_opening_that_is_cancelled_twice_leaves_nothing_behind(tmp_path: Path, pool_size: int) -> None:
    lower = tmp_path / "work" / "lower"
    async with local(tmp_path, max_sessions=1, pool_size=pool_size, usual_limits=LIMITS) as driver:
        async with opened(driver) as session:
            await run(session, "1")
        await _settled(driver)
        descriptors, groups = open_descriptors(), len(cgroups_of(os.getpid()))
        for turns in range(12):
            task = asyncio.create_task(driver.open(SessionSpec("session", LIMITS, ())))
            for _ in range(turns):
                await asyncio.sleep(0)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            if not task.cancelled():
                await task.result().close()
            # Taken until it is left, and then free.
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(SandboxFull):
                        async with opened(driver) as session:
                            assert (await run(session, "1")).value == "1"
                        break
                    await asyncio.sleep(0.01)
        await _settled(driver)
        assert len(list(lower.iterdir())) == pool_size
        assert open_descriptors() == descriptors
        assert len(cgroups_of(os.getpid())) == groups
        assert len(driver._launcher._zygote._interpreters) == pool_size  # type: ignore[union-attr] # it was started


async def test_a_close_that_is_cancelled_goes_on(tmp_path: Path) -> None:
    async with local(tmp_path, max_sessions=1, pool_size=0) as driver:
        session = await driver.open(SessionSpec("session", LIMITS, ()))
        events = session.execute("print(1)\nwhile True: pass", timeout_seconds=20)
        await anext(events)
        await events.aclose()
        # It waits for the code to end by then.
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(0)
        closing.cancel()
        await session.close()
        assert list((tmp_path / "work" / "lower").iterdir()) == []
        async with opened(driver) as other:
            assert (await run(other, "1")).value == "1"


async def _settled(driver: LocalSandbox) -> None:
    """Wait until nothing is made or left any more."""
    assert driver._pool is not None
    assert driver._launcher is not None
    await driver._launcher.settle()
    await driver._pool.settle()


async def test_a_limit_of_memory_in_which_nothing_starts_is_named(tmp_path: Path) -> None:
    async with local(tmp_path, pool_size=0) as driver:
        if not any(layer.name == "cgroup memory" and layer.active for layer in await driver.layers()):
            pytest.skip("the host gives no control groups, so what an interpreter has from its zygote is free")
        with pytest.raises(SandboxUnavailable, match=r"limit of memory, 65536 B: .* was ended by SIGKILL"):
            async with opened(driver, memory_bytes=65536):
                pass
        async with opened(driver) as session:
            assert (await run(session, "1")).value == "1"


async def test_without_control_groups_memory_is_limited_by_process(tmp_path: Path) -> None:
    async with local(tmp_path, cgroups=CgroupMode.OFF) as driver, opened(driver) as session:
        cell = await run(session, "data = []\nwhile True: data.append(bytearray(b'x') * 2**20)", timeout_seconds=60)
        assert cell.status is ExecutionStatus.OUT_OF_MEMORY
        assert not cell.result.state_lost


async def test_every_essential_layer_is_active(tmp_path: Path) -> None:
    async with local(tmp_path) as driver:
        layers = await driver.layers()
    assert {layer.name for layer in layers if layer.essential} >= {"namespaces", "network", "seccomp", "capabilities"}
    assert [layer.name for layer in layers if layer.essential and not layer.active] == []
    assert all(layer.detail for layer in layers)


@pytest.mark.parametrize("python", ["/nonexistent/python", "/bin/false"])
async def test_a_guest_python_that_does_not_start_is_told(tmp_path: Path, python: str) -> None:
    with pytest.raises(SandboxUnavailable, match=r"does not start|has ended"):
        async with local(tmp_path, guest_python=Path(python), start_seconds=5.0):
            pass


_SERVER = """
import asyncio, sys
from pathlib import Path
from tests.integration.sandbox.test_local import local, process_of
from tests.support.sandbox import opened, run

async def main():
    async with local(Path(sys.argv[1])) as driver, opened(driver) as session:
        await run(session, "import subprocess; subprocess.Popen(['sleep', '600'])")
        print(process_of(session), flush=True)
        await run(session, "import time; time.sleep(600)", timeout_seconds=600)
asyncio.run(main())
"""


def _kill_server(directory: Path) -> int:
    """Start a server with a session, kill it, and wait for the session to end; the server's process id."""
    with subprocess.Popen([sys.executable, "-c", _SERVER, directory], stdout=subprocess.PIPE, cwd=REPOSITORY) as server:
        assert server.stdout is not None
        orphan = os.pidfd_open(int(server.stdout.readline()))
        server.kill()
    try:
        readable, _, _ = select.select([orphan], [], [], 5)
        assert readable, "the session outlived its server"
    finally:
        os.close(orphan)
    return server.pid


async def test_a_killed_server_leaves_no_process_and_its_rest_is_swept(tmp_path: Path) -> None:
    server = await asyncio.to_thread(_kill_server, tmp_path)
    async with local(tmp_path):
        assert list((tmp_path / "work" / "lower").iterdir()) == []
        assert cgroups_of(server) == []
