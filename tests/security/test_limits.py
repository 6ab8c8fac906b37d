"""Attacks on what a session may use: each is stopped at its limit, says so, and harms no neighbour."""

import asyncio
import time

import pytest

from afarensis_server.sandbox.docker.session import DockerSession
from afarensis_server.sandbox.driver import Display, ExecutionStatus, SandboxSession
from afarensis_server.sandbox.local import LocalSandbox
from tests.support.sandbox import LIMITS, MIB, SOCKET, opened, run

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.on_docker]


@pytest.mark.on_podman
async def test_a_huge_allocation_is_a_memory_error_that_keeps_the_state(session: SandboxSession) -> None:
    await run(session, "x = 1")
    cell = await run(session, "data = bytearray(4 * 2**30)")
    assert (cell.status, cell.error, cell.result.state_lost) == (ExecutionStatus.OUT_OF_MEMORY, "MemoryError", False)
    assert cell.exceeded == {"memory_bytes"}
    assert (await run(session, "x")).value == "1"


@pytest.mark.on_gvisor
@pytest.mark.on_podman
@pytest.mark.parametrize("piece", [2**20, 2**16])
async def test_memory_that_grows_is_stopped(session: SandboxSession, piece: int) -> None:
    """Also in pieces so small that next to nothing is left of it, for what follows."""
    cell = await run(session, f"data = []\nwhile True: data.append(bytearray(b'x') * {piece})", timeout_seconds=60)
    assert cell.status is ExecutionStatus.OUT_OF_MEMORY
    assert cell.exceeded == {"memory_bytes"}
    assert (await run(session, "1 + 1")).value == "2"


@pytest.mark.on_podman
async def test_a_fork_bomb_runs_into_the_limit_of_processes(session: SandboxSession) -> None:
    code = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        count += 1
except BlockingIOError:
    pass
count
"""
    cell = await run(session, code)
    assert cell.value is not None
    assert int(cell.value) < LIMITS.processes
    assert (await run(session, "1 + 1")).value == "2"


@pytest.mark.on_podman
async def test_too_many_processes_are_named_as_the_limit(driver: LocalSandbox) -> None:
    if not any(layer.name == "cgroup pids" and layer.active for layer in await driver.layers()):
        pytest.skip("the host gives no control groups, and a process's own limit does not tell what it refused")
    async with opened(driver) as session:
        code = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)"
        cell = await run(session, code)
        assert (cell.error, cell.exceeded) == ("BlockingIOError", {"processes"})


async def test_a_fork_bomb_of_forks_ends_with_the_session(driver: LocalSandbox) -> None:
    async with opened(driver) as neighbour, opened(driver) as session:
        code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        cell = await run(session, code, timeout_seconds=1)
        assert cell.status in {ExecutionStatus.TIMEOUT, ExecutionStatus.SESSION_LOST, ExecutionStatus.OUT_OF_MEMORY}
        assert (await run(neighbour, "1 + 1", timeout_seconds=5)).value == "2"


async def test_threads_run_into_the_limit_of_processes(session: SandboxSession) -> None:
    code = """
import threading, time
stop = threading.Event()
started = 0
try:
    for _ in range(1000):
        threading.Thread(target=stop.wait, daemon=True).start(); started += 1
except RuntimeError:
    pass
stop.set()
started
"""
    cell = await run(session, code)
    assert cell.value is not None
    assert int(cell.value) < LIMITS.processes


@pytest.mark.on_podman
async def test_open_files_run_into_their_limit(session: SandboxSession) -> None:
    cell = await run(session, "files = []\nwhile True: files.append(open('/dev/null'))")
    assert (cell.status, cell.error) == (ExecutionStatus.ERROR, "OSError")
    assert (await run(session, "del files\nopen('a.txt', 'w').write('x')")).changes == {"a.txt": "created"}


@pytest.mark.on_gvisor
@pytest.mark.on_podman
@pytest.mark.parametrize("place", ["/mnt/data", "/tmp", "/dev/shm"])
async def test_a_full_disk_is_an_error_and_can_be_cleared(session: SandboxSession, place: str) -> None:
    fill = f"import os\nos.chdir('{place}')\nn = 0\nwhile True:\n    open(f'f{{n}}', 'wb').write(bytes(2**20)); n += 1"
    cell = await run(session, fill)
    assert (cell.status, cell.error) == (ExecutionStatus.ERROR, "OSError")
    assert cell.result.error is not None
    assert "No space left" in cell.result.error.value
    assert place != "/mnt/data" or cell.exceeded == {"disk_bytes"}
    after = await run(session, "for name in os.listdir(): os.remove(name)\nopen('again', 'w').write('x')")
    assert after.status is ExecutionStatus.OK


@pytest.mark.on_podman
async def test_a_million_files_run_into_the_limit_of_inodes(session: SandboxSession) -> None:
    cell = await run(session, "for n in range(1_000_000): open(f'f{n}', 'w').close()")
    assert cell.error == "OSError"
    assert cell.exceeded == {"disk_inodes"}
    # Containers have some more, for the files that a session is given.
    assert len(cell.changes) <= LIMITS.disk_inodes + (512 if isinstance(session, DockerSession) else 0)


async def test_a_sparse_file_ends_at_the_limit_of_the_disk(session: SandboxSession) -> None:
    cell = await run(session, "f = open('sparse', 'wb')\nf.truncate(2**40)")
    assert (cell.status, cell.error) == (ExecutionStatus.ERROR, "OSError")


@pytest.mark.on_local
async def test_a_flood_of_output_is_cut_and_counted(session: SandboxSession) -> None:
    cell = await run(session, "import os\nfor _ in range(1000): os.write(1, b'x' * 100_000)")
    assert len(cell.stdout) == LIMITS.output_bytes
    assert cell.result.dropped_bytes == 100_000_000 - LIMITS.output_bytes
    assert cell.exceeded == {"output_bytes"}


async def test_an_endless_flood_does_not_hold_up_the_server(session: SandboxSession) -> None:
    task = asyncio.create_task(run(session, "import os\nwhile True: os.write(2, b'x' * 65536)", timeout_seconds=2))
    turns = 0
    while not task.done():
        await asyncio.wait([task], timeout=0.02)
        turns += 1
    assert (await task).status is ExecutionStatus.TIMEOUT
    # A hundred at most, of which others on this machine may take many; a server that is held up has a few.
    assert turns > 20


async def test_a_flood_of_displays_is_cut_and_counted(session: SandboxSession) -> None:
    cell = await run(session, "for _ in range(100): display('y' * 60_000)")
    displays = [event for event in cell.events if isinstance(event, Display)]
    assert 0 < len(displays) < 20
    assert cell.exceeded == {"display_bytes"}


@pytest.mark.on_local
async def test_one_busy_session_leaves_the_processor_to_another(driver: LocalSandbox) -> None:
    async with opened(driver) as busy, opened(driver) as neighbour:
        code = """
import os
for _ in range(8):
    if os.fork() == 0:
        while True: pass
"""
        await run(busy, code)
        task = asyncio.create_task(run(busy, "while True: pass", timeout_seconds=2))
        cell = await run(neighbour, "sum(range(10**6))", timeout_seconds=10)
        assert cell.status is ExecutionStatus.OK
        await task


@pytest.mark.on_podman
async def test_memory_of_a_session_does_not_grow_past_its_limit_by_processes(driver: LocalSandbox) -> None:
    if not any(layer.name == "cgroup memory" and layer.active for layer in await driver.layers()):
        pytest.skip("the host gives no control groups, so each process is limited by itself")
    async with opened(driver) as session:
        code = """
import os, time
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        data = bytearray(b"x") * (100 * 2**20); time.sleep(3); os._exit(0)
    children.append(pid)
sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9 for pid in children)
"""
        cell = await run(session, code, timeout_seconds=60)
        assert "memory_bytes" in cell.exceeded
        # A container's limit is that of its session and what is left of docker.overhead_bytes.
        assert cell.result.peak_memory_bytes <= (512 if isinstance(session, DockerSession) else 256) * MIB


async def test_displays_of_nothing_are_cut_too(session: SandboxSession) -> None:
    empty = """
frames = shown([{"media_type": "a", "length": 0, "text": True}]) * 100
for _ in range(200): control.sendall(frames)
"""
    cell = await run(session, SOCKET + empty)
    displays = [event for event in cell.events if isinstance(event, Display)]
    assert len(displays) == LIMITS.display_bytes // 4096
    (limit,) = cell.result.exceeded_limits
    assert (limit.name, limit.limit, limit.used) == ("display_bytes", MIB, 20_000 * 4096)


async def test_tiny_displays_do_not_hold_up_the_server(driver: LocalSandbox) -> None:
    flood = "control.sendall(shown([{'media_type': 'a', 'length': 0}]) * 600)"
    shown = 0

    async def count(session: SandboxSession) -> None:
        nonlocal shown
        async for event in session.execute(SOCKET + flood, timeout_seconds=20):
            shown += isinstance(event, Display)

    async with opened(driver, display_bytes=4 * MIB) as session:
        task = asyncio.create_task(count(session))
        most = 0
        while not task.done():
            before = shown
            await asyncio.sleep(0)  # a turn of everybody else's
            most = max(most, shown - before)
        await task
    assert shown == 600
    assert most < 60


@pytest.mark.on_local
async def test_bytes_that_change_streams_are_not_an_event_each(session: SandboxSession) -> None:
    code = "import sys\nfor i in range(5000): print(i); print(-i, file=sys.stderr)"
    cell = await run(session, code, timeout_seconds=60)
    assert len(cell.events) < 4000
    # Each stream is whole, and in order.
    assert cell.stdout == "".join(f"{i}\n" for i in range(5000))
    assert cell.stderr == "".join(f"{-i}\n" for i in range(5000))


@pytest.mark.on_local
@pytest.mark.parametrize(
    "flood",
    [
        "while True: os.write(1, b'x')",
        "while True: os.write(1, b'x'); os.write(2, b'x')",
        "while True: os.write(1, b'x' * 65536)",
        "f = shown([{'media_type': 'a', 'length': 0}]) * 100\nwhile True: control.sendall(f)",
    ],
    ids=["one stream", "both streams", "more than is kept", "displays"],
)
async def test_a_flood_of_what_is_of_no_use_takes_little_of_the_server(session: SandboxSession, flood: str) -> None:
    began = time.thread_time()
    cell = await run(session, f"{SOCKET}\n{flood}", timeout_seconds=3)
    assert cell.status is ExecutionStatus.TIMEOUT
    assert time.thread_time() - began < 1.8


async def test_a_memory_error_of_the_code_s_own_is_none_of_the_session_s(session: SandboxSession) -> None:
    cell = await run(session, "raise MemoryError('mine')")
    assert (cell.status, cell.error, cell.exceeded) == (ExecutionStatus.ERROR, "MemoryError", set())


async def test_an_array_that_is_too_large_is_out_of_memory(session: SandboxSession) -> None:
    cell = await run(session, "import numpy\nnumpy.ones(2**33)")
    assert (cell.status, cell.exceeded) == (ExecutionStatus.OUT_OF_MEMORY, {"memory_bytes"})


@pytest.mark.parametrize("place", ["/mnt/data", "/tmp"])
@pytest.mark.parametrize(
    "files", ["f = open('full', 'wb')\nwhile True: f.write(bytes(2**20))", "for n in range(10**6): open(f'f{n}', 'w')"]
)
async def test_a_full_disk_is_named_where_it_was_met(session: SandboxSession, place: str, files: str) -> None:
    limit = "disk_bytes" if "full" in files else "disk_inodes"
    cell = await run(session, f"import os\nos.chdir({place!r})\n{files}")
    assert cell.exceeded == {limit}
    assert (await run(session, "1 + 1")).exceeded == set()
    again = (
        "open('/mnt/data/more', 'w').write('x' * 2**20)"
        if place == "/mnt/data"
        else "open('/tmp/more', 'w').write('x' * 2**20)"
    )
    assert (await run(session, again)).exceeded == {limit}


async def test_code_that_is_too_long_is_told_so(session: SandboxSession) -> None:
    await run(session, "x = 1")
    cell = await run(session, "#" * (17 * MIB))
    assert (cell.status, cell.result.state_lost) == (ExecutionStatus.ERROR, False)
    assert cell.result.error is not None
    assert "of 16777216 that it may" in cell.result.error.value
    assert (await run(session, "x")).value == "1"
