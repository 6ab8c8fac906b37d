"""What is the docker driver's own: its engine and its trouble, its containers and what they are made of."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import docker
import docker.errors
import pytest
import requests

from afarensis_server.sandbox.docker import InputMode
from afarensis_server.sandbox.docker.session import DockerSession
from afarensis_server.sandbox.docker.spec import LABEL
from afarensis_server.sandbox.driver import (
    ExecutionStatus,
    InputFile,
    Output,
    SandboxFull,
    SandboxSession,
    SandboxUnavailable,
    SessionSpec,
)
from tests.support.containers import Proxy, client, containers, kill_server, make_certificates, over_tls
from tests.support.sandbox import LIMITS, MIB, REPOSITORY, Cell, opened, read, run

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio,
    # The SDK leaves a socket that could not connect to the collector.
    pytest.mark.filterwarnings("ignore:unclosed <(socket|ssl):ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <(socket|ssl):pytest.PytestUnraisableExceptionWarning"),
]
Make = Callable[..., InputFile]


def container_of(session: SandboxSession) -> str:
    assert isinstance(session, DockerSession)
    return session.container.name


@pytest.mark.on_dockerd
async def test_a_container_is_hardened(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver, cpu_cores=0.5) as session:
        with client(docker_engine) as engine:
            seen = engine.inspect_container(container_of(session))
    host, config = seen["HostConfig"], seen["Config"]
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["ReadonlyRootfs"]
    assert (host["NetworkMode"], host["IpcMode"], host["PidMode"]) == ("none", "private", "")
    assert host["LogConfig"]["Type"] == "none"
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert host["PidsLimit"] == LIMITS.processes + 1
    assert host["Memory"] == host["MemorySwap"] == LIMITS.memory_bytes + 256 * MIB
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.5
    assert set(host["Tmpfs"]) == {"/mnt/data", "/tmp", "/dev/shm"}
    assert all(f"size={LIMITS.disk_bytes}" in options and "nr_inodes=" in options for options in host["Tmpfs"].values())
    assert [(mount["Target"], mount["ReadOnly"]) for mount in host["Mounts"]] == [("/mnt/inputs", True)]
    assert config["User"] == "1000:1000"
    assert config["Image"].startswith("sha256:")
    assert not any("docker.sock" in str(mount) for mount in seen["Mounts"])


async def test_every_essential_layer_is_active(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image) as driver:
        layers = {layer.name: layer for layer in await driver.layers()}
    assert [layer.name for layer in layers.values() if layer.essential and not layer.active] == []
    assert "runc" in layers["engine"].detail
    assert not layers["own kernel"].active


async def test_closed_sessions_leave_no_container(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image, pool_size=1) as driver:
        async with opened(driver) as session:
            name = container_of(session)
        with client(docker_engine) as engine:
            assert engine.containers(all=True, filters={"name": name}) == []
    assert list((tmp_path / "work" / "inputs").iterdir()) == []
    with client(docker_engine) as engine:
        mine = [one for one in engine.containers(all=True) if str(tmp_path) in json.dumps(one["Mounts"])]
    assert mine == []


async def test_a_session_beyond_the_capacity_is_refused(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image, max_sessions=1) as driver:
        async with opened(driver):
            with pytest.raises(SandboxFull):
                await driver.open(SessionSpec("sess_test", LIMITS))
        async with opened(driver) as session:
            assert (await run(session, "1 + 1")).value == "2"


#: What a container sees of its own control groups, by version 2 or 1: bytes of memory, and microseconds of each 100 ms.
_GROUP_LIMITS = """
def limit(*names):
    for name in names:
        try: return int(open("/sys/fs/cgroup/" + name).read().split()[0])
        except FileNotFoundError: pass
[limit("memory.max", "memory/memory.limit_in_bytes"), limit("cpu.max", "cpu/cpu.cfs_quota_us")]
"""


@pytest.mark.on_podman
async def test_a_pooled_container_takes_other_limits_of_memory_and_processor(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image, pool_size=1, usual_limits=LIMITS) as driver:
        assert driver._pool is not None
        await driver._pool.settle()
        (ready,) = driver._pool._ready
        async with opened(driver, input_file("in.csv"), memory_bytes=128 * MIB, cpu_cores=0.5) as session:
            assert container_of(session) == ready.name
            # As the kernel has them: what an engine says of a container may be what it was made with.
            assert (await run(session, _GROUP_LIMITS)).value == str([384 * MIB, 50_000])
            cell = await run(session, "print(open('in.csv').read())\ndata = bytearray(300 * 2**20)")
            assert (cell.stdout, cell.status) == ("a,b\n1,2\n\n", ExecutionStatus.OUT_OF_MEMORY)
        async with opened(driver, disk_bytes=32 * MIB) as session:
            assert (await run(session, "import os; s = os.statvfs('.'); s.f_blocks * s.f_frsize")).value == str(
                32 * MIB
            )


async def test_a_pooled_container_that_died_is_not_handed_out(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image, pool_size=1, usual_limits=LIMITS) as driver:
        assert driver._pool is not None
        await driver._pool.settle()
        (ready,) = driver._pool._ready
        with client(docker_engine) as engine:
            engine.kill(ready.name)
        async with opened(driver) as session:
            assert container_of(session) != ready.name
            assert (await run(session, "1 + 1")).value == "2"


async def _meanwhile(session: SandboxSession, act: Callable[[], object]) -> Cell:
    """What code shows that runs while something happens."""
    events = []
    async for event in session.execute("print('go', flush=True)\nwhile True: pass", timeout_seconds=20):
        if isinstance(event, Output):
            await asyncio.to_thread(act)
        events.append(event)
    return Cell(tuple(events))


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.on_podman
async def test_a_container_that_is_killed_is_told_and_replaced_with_its_inputs(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    async with (
        containers(tmp_path, docker_engine, sandbox_image) as driver,
        opened(driver, input_file("in.csv")) as session,
    ):
        await run(session, "open('made.txt', 'w').write('x')")
        with client(docker_engine) as engine:
            cell = await _meanwhile(session, lambda: engine.kill(container_of(session)))
        assert (cell.status, cell.result.state_lost) == (ExecutionStatus.SESSION_LOST, True)
        assert cell.result.error is not None
        assert "exit code 137" in cell.result.error.value
        assert "so are the files that it made" in cell.result.error.value
        cell = await run(session, "import os; sorted(os.listdir()), open('in.csv').read()")
        assert cell.value == "(['file-1', 'in.csv'], 'a,b\\n1,2\\n')"


async def test_a_container_that_died_between_executions_is_told_by_the_next(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver) as session:
        await run(session, "x = 1")
        with client(docker_engine) as engine:
            engine.kill(container_of(session))
        cell = await run(session, "1 + 1")
        assert (cell.value, cell.result.state_lost) == ("2", True)


async def test_a_session_that_is_closed_while_its_container_is_replaced_leaves_none(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image, max_sessions=1, pool_size=0) as driver:
        session = await driver.open(SessionSpec("sess_test", LIMITS))
        own = {"label": f"{LABEL}={driver._owner}"}
        with client(docker_engine) as engine:
            engine.kill(container_of(session))
            preparing = asyncio.create_task(session.prepare())
            async with asyncio.timeout(20):
                while len(await asyncio.to_thread(engine.containers, all=True, filters=own)) < 2:
                    pass
            await session.close()
            with pytest.raises(SandboxUnavailable, match="the session is closed"):
                await preparing
            assert engine.containers(all=True, filters=own) == []
        async with opened(driver) as other:
            assert (await run(other, "1 + 1")).value == "2"


@pytest.mark.on_podman
async def test_an_engine_that_goes_and_comes_back_costs_what_was_in_its_containers(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    proxy = Proxy(docker_engine, tmp_path / "engine.sock")
    async with (
        containers(tmp_path, proxy.url, sandbox_image) as driver,
        opened(driver, input_file("in.csv")) as session,
    ):
        cell = await _meanwhile(session, proxy.cut)
        assert cell.status is ExecutionStatus.SESSION_LOST
        assert cell.result.error is not None
        assert "no container engine answers at unix://" in cell.result.error.value
        with pytest.raises(SandboxUnavailable, match="no container engine answers"):
            await run(session, "1 + 1")
        with pytest.raises(SandboxUnavailable, match="no container engine answers"):
            await driver.open(SessionSpec("sess_test", LIMITS))
        proxy.mend()
        assert (await run(session, "open('in.csv').read()")).value == "'a,b\\n1,2\\n'"
    proxy.cut()


@pytest.mark.on_podman
async def test_memory_in_which_not_even_the_agent_starts_is_named(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    with pytest.raises(SandboxUnavailable, match=r"is not enough to start in .*docker.overhead_bytes"):
        async with containers(tmp_path, docker_engine, sandbox_image, warm=True, overhead_bytes=1) as driver:
            await driver.open(SessionSpec("sess_test", replace(LIMITS, memory_bytes=24 * MIB)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"host": "unix:///nowhere/docker.sock"},
            r"no container engine answers at unix:///nowhere/docker.sock.*docker\.host",
        ),
        ({"host": "tcp://127.0.0.1:9"}, r"no container engine answers at tcp://127.0.0.1:9"),
        (
            {"image": "no-such-image:1"},
            r"has no image no-such-image:1. Build it with `make sandbox-image( DOCKER=podman)?`",
        ),
        (
            {"runtime": "none"},
            r"not know the runtime of the setting docker\.runtime|docker\.runtime is none, but Podman",
        ),
    ],
)
async def test_what_is_missing_is_named_with_what_to_do(
    tmp_path: Path, docker_engine: str, sandbox_image: str, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(SandboxUnavailable, match=words):
        async with containers(tmp_path, docker_engine, sandbox_image, **settings):
            pass


async def test_an_engine_that_does_not_let_the_server_in_is_named(docker_engine: str) -> None:
    code = f"""
import asyncio, os
from afarensis_server.sandbox.docker.engine import Engine
asyncio.run(asyncio.to_thread(int))  # loads what this user may not read
os.seteuid(65534)
asyncio.run(Engine.connect({docker_engine!r}, None, 5))
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert "does not let this user (65534) in" in done.stderr
    assert "group `docker`" in done.stderr


async def test_an_image_of_another_version_is_refused(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    dockerfile = f"FROM {sandbox_image}\nLABEL afarensis.sources=another\n".encode()
    command = ["docker", "--host", docker_engine, "build", "--quiet", "-t", "afarensis-sandbox:another", "-"]
    await asyncio.to_thread(subprocess.run, command, input=dockerfile, capture_output=True, check=True)
    with pytest.raises(SandboxUnavailable, match="made for another version of the server; build it anew with `make"):
        async with containers(tmp_path, docker_engine, "afarensis-sandbox:another"):
            pass


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (500, "write /var/lib/docker/x: no space left on device", "the container engine's disk is full"),
        (500, "cgroups: cannot find cgroup mount destination", "could not make a container: cgroups: cannot find"),
    ],
)
async def test_what_the_engine_cannot_do_is_told_in_its_words(
    tmp_path: Path,
    docker_engine: str,
    sandbox_image: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    said: str,
    words: str,
) -> None:
    response = requests.Response()
    response.status_code = status

    def fail(*_: object) -> None:
        raise docker.errors.APIError("failed", response, said)

    async with containers(tmp_path, docker_engine, sandbox_image) as driver:
        monkeypatch.setattr(docker.APIClient, "create_container_from_config", fail)
        with pytest.raises(SandboxUnavailable, match=words):
            await driver.open(SessionSpec("sess_test", LIMITS))


async def test_containers_of_a_killed_server_end_and_are_swept(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    orphan = await asyncio.to_thread(kill_server, tmp_path / "one", docker_engine, sandbox_image)
    with client(docker_engine) as engine:
        # Its stream has ended, and so does the agent.
        assert engine.wait(orphan, timeout=20)["StatusCode"] == 0
        async with containers(tmp_path / "alive", docker_engine, sandbox_image) as driver, opened(driver) as session:
            # Of another directory, which nobody may ever use again: what counts is that its server is dead.
            async with containers(tmp_path / "two", docker_engine, sandbox_image):
                names = [name for one in engine.containers(all=True) for name in one["Names"]]
                assert f"/{orphan}" not in names
                assert f"/{container_of(session)}" in names
            assert (await run(session, "1 + 1")).value == "2"


# --- files ------------------------------------------------------------------------------------------------------------


async def test_a_large_input_is_a_link_that_can_be_replaced_and_not_written_to(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    file = input_file("big.csv", b"x" * 100_000)
    async with (
        containers(tmp_path, docker_engine, sandbox_image, copy_bytes=1000) as driver,
        opened(driver, file) as session,
    ):
        (listed,) = await session.list_files()
        assert (listed.path, listed.size_bytes, listed.is_untouched) == ("big.csv", 100_000, True)
        assert await session.stat_file("big.csv") == listed
        assert await read(session, "big.csv") == b"x" * 100_000
        assert (await run(session, "open('file-1').read(3)")).value == "'xxx'"
        assert (await run(session, "open('big.csv', 'a')")).error in {"OSError", "PermissionError"}
        assert (await run(session, "import os\nos.rename('big.csv', 'moved.csv')")).changes == {
            "big.csv": "deleted",
            "moved.csv": "created",
        }
        assert await read(session, "moved.csv") == b"x" * 100_000
        code = "open('new', 'w').write('mine'); os.replace('new', 'moved.csv')"
        assert (await run(session, code)).changes == {"moved.csv": "modified"}
        assert await read(session, "moved.csv") == b"mine"
    assert file.path.read_bytes() == b"x" * 100_000


@pytest.mark.on_podman
async def test_inputs_are_streamed_where_the_engine_does_not_see_them(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    large = os.urandom(3 * MIB)
    files = (input_file("d/in.csv"), input_file("large.bin", large, "file-2"), input_file("empty", b"", "file-3"))
    async with (
        containers(tmp_path, docker_engine, sandbox_image, inputs=InputMode.STREAM) as driver,
        opened(driver, *files) as session,
    ):
        with client(docker_engine) as engine:
            mounts = engine.inspect_container(container_of(session))["Mounts"]
        assert [mount for mount in mounts if mount["Type"] == "bind"] == []
        assert await read(session, "large.bin") == large
        assert [file.is_untouched for file in await session.list_files()] == [True] * 3
        cell = await run(session, "open('file-1').read(), open('d/in.csv', 'a').write('x')")
        assert (cell.value, cell.changes) == ("('a,b\\n1,2\\n', 1)", {"d/in.csv": "modified"})
        await session.add_files([input_file("late.csv", file_id="file-4")])
        assert (await run(session, "open('late.csv').read()")).value == "'a,b\\n1,2\\n'"
        with pytest.raises(SandboxUnavailable, match="No space left"):
            await session.add_files([input_file("too-large", b"x" * (17 * MIB), "file-5")])
        assert (await run(session, "open('late.csv').read()")).value == "'a,b\\n1,2\\n'"


async def test_an_engine_elsewhere_is_reached_by_tls_and_gets_inputs_as_streams(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    certificates = await asyncio.to_thread(make_certificates, tmp_path / "certificates")
    large = os.urandom(2 * MIB)
    async with over_tls(docker_engine, certificates) as url:
        with pytest.raises(SandboxUnavailable, match="no container engine answers at tcp://"):
            async with containers(tmp_path, url, sandbox_image):
                pass
        async with (
            containers(tmp_path, url, sandbox_image, certificates=certificates) as driver,
            opened(driver, input_file("in.bin", large)) as session,
        ):
            assert await read(session, "in.bin") == large
            cell = await run(session, "for n in range(100_000): print(n)\nimport os; os.path.islink('in.bin')")
            assert (cell.stdout.count("\n"), cell.value) == (100_000, "False")
            cell = await run(session, "while True: pass", timeout_seconds=0.3)
            assert (cell.status, cell.result.state_lost) == (ExecutionStatus.TIMEOUT, False)
        others = await asyncio.to_thread(make_certificates, tmp_path / "others")
        with pytest.raises(SandboxUnavailable, match="do not agree on certificates"):
            async with containers(tmp_path, url, sandbox_image, certificates=others):
                pass


async def test_many_small_inputs_take_no_more_of_the_disk_than_a_part(
    tmp_path: Path, docker_engine: str, sandbox_image: str, input_file: Make
) -> None:
    files = [input_file(f"{number}.bin", bytes(MIB), f"file-{number}") for number in range(10)]
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver, *files) as session:
        cell = await run(session, "import os\nsum(os.path.islink(f'{n}.bin') for n in range(10))")
        assert cell.value == "6"
        assert len([file for file in await session.list_files() if file.is_untouched]) == 10


# --- a reader that stops ----------------------------------------------------------------------------------------------


async def test_a_reader_that_stops_holds_up_nothing_else(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    async with (
        containers(tmp_path, docker_engine, sandbox_image, window_bytes=64 * 1024) as driver,
        opened(driver, output_bytes=64 * MIB) as session,
    ):
        await run(session, "open('big.bin', 'wb').write(bytes(8 * 2**20))")
        events = session.execute("for n in range(400_000): print(n)", timeout_seconds=60)
        await anext(events)
        chunks = session.read_file("big.bin")
        await anext(chunks)
        async with asyncio.timeout(5):
            assert [file.path for file in await session.list_files()] == ["big.bin"]
            assert len(await read(session, "big.bin")) == 8 * MIB
        await chunks.aclose()
        text = "".join([event.text async for event in events if isinstance(event, Output)])
        assert text.endswith("399999\n")


async def test_nobody_inside_can_kill_or_open_the_agent(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    code = """
import os, signal
for number in set(signal.Signals) - {signal.SIGINT}:
    try: os.kill(1, number)
    except OSError: pass
def opens(path):
    try: os.close(os.open(path, os.O_RDONLY)); return True
    except OSError: return False
[path for path in ("/proc/1/mem", "/proc/1/fd/0", "/proc/1/fd/1", "/proc/1/environ", "/proc/1/root/etc") if opens(path)]
"""
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver) as session:
        cell = await run(session, code)
        assert (cell.value, cell.status) == ("[]", ExecutionStatus.OK), cell.result.error
        assert (await run(session, "1 + 1")).value == "2"


@pytest.mark.on_podman
async def test_nobody_inside_can_keep_the_agent_from_running(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    """A first process that never runs cannot even be killed, and its container stays for good."""
    code = """
import errno, os, resource
attempts = [
    lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    lambda: os.sched_setaffinity(1, {0}),
    lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    lambda: os.sched_setparam(1, os.sched_param(0)),
    lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)),
]
answers = set()
for attempt in attempts:
    try: attempt(); answers.add("done")
    except OSError as error: answers.add(errno.errorcode[error.errno])
os.sched_setaffinity(0, os.sched_getaffinity(0)); os.nice(1)
answers
"""
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver) as session:
        cell = await run(session, code)
        assert (cell.value, cell.status) == ("{'EPERM'}", ExecutionStatus.OK), cell.result.error


async def test_files_that_went_with_their_container_are_told_though_the_interpreter_s_death_was(
    tmp_path: Path, docker_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver) as session:
        cell = await run(session, "open('a.txt', 'w').write('x'); import os; os._exit(3)")
        assert cell.result.state_lost
        with client(docker_engine) as engine:
            engine.kill(container_of(session))
        assert (await run(session, "1 + 1")).result.state_lost
        assert not (await run(session, "1 + 1")).result.state_lost


async def test_orphans_are_reaped(tmp_path: Path, docker_engine: str, sandbox_image: str) -> None:
    async with containers(tmp_path, docker_engine, sandbox_image) as driver, opened(driver) as session:
        await run(session, "import os\nfor _ in range(20): os.system('(sleep 0.01 &)')")
        await run(session, "import time; time.sleep(0.2)")
        code = """
states = [open(f"/proc/{name}/stat").read().split(")")[1].split()[0] for name in os.listdir("/proc") if name.isdigit()]
states.count("Z")
"""
        assert (await run(session, code)).value == "0"
