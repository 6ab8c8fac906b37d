"""What is Podman's own: what it is told in other words than Docker, and its containers without root's rights."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from afarensis_server.sandbox.docker.driver import DockerSandbox
from afarensis_server.sandbox.docker.session import DockerSession
from afarensis_server.sandbox.docker.spec import LABEL
from afarensis_server.sandbox.driver import ExecutionStatus, InputFile, SandboxUnavailable, SessionSpec
from tests.support.containers import client, containers, kill_server
from tests.support.sandbox import LIMITS, MIB, opened, run

pytestmark = [pytest.mark.engine("podman", "rootless"), pytest.mark.asyncio]
Make = Callable[..., InputFile]

#: Runs inside. Each place is a mount, since what an engine adds is one.
_LOOK = """
import os, resource
mounts = {line.split()[4]: line.split()[5].split(",") for line in open("/proc/self/mountinfo")}
def takes_files(place):
    try: open(place + "/canary", "x").close(); os.remove(place + "/canary"); return True
    except OSError: return False
def disk(place):
    found = os.statvfs(place)
    return found.f_blocks * found.f_frsize, found.f_files
def read(path):
    try: return open(path).read()
    except FileNotFoundError: return ""
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
{
    "root": mounts["/"][0],
    "written": {place: disk(place) for place in sorted(mounts) if os.path.isdir(place) and takes_files(place)},
    "loose": [place for place in ("/mnt/data", "/tmp", "/dev/shm") if not {"nosuid", "nodev"} <= {*mounts[place]}],
    "run": [place for place in ("/dev/shm", "/run", "/var/tmp") if "noexec" not in mounts[place]],
    "copied": [read(path) for path in ("/etc/hosts", "/etc/resolv.conf")],
    "networks": [line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:]],
    "agent": [status[name].strip() for name in ("CapBnd", "NoNewPrivs", "Seccomp")],
    "limits": [resource.getrlimit(getattr(resource, name))[1] for name in ("RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE")],
}
"""


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that any user may look into, as an engine without root's rights has to."""
    with tempfile.TemporaryDirectory(prefix="afarensis-test-") as path:
        Path(path).chmod(0o755)
        (Path(path) / "work").mkdir(mode=0o755)
        yield Path(path)


def volumes_of(engine: "docker.APIClient", driver: DockerSandbox) -> list[str]:
    found = engine.volumes({"label": f"{LABEL}={driver._owner}"})["Volumes"]
    return [volume["Name"] for volume in found or []]


async def test_a_container_is_as_closed_as_one_of_docker_s(
    tmp_path: Path, podman_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, podman_engine, sandbox_image, runtime="runc") as driver:
        layers = {layer.name: layer.active for layer in await driver.layers()}
        async with opened(driver, cpu_cores=0.5) as session:
            assert isinstance(session, DockerSession)
            with client(podman_engine) as engine:
                seen = engine.inspect_container(session.container.name)
            assert (await run(session, _LOOK)).value == repr(
                {
                    "root": "ro",
                    "written": {
                        "/dev/shm": (LIMITS.disk_bytes, LIMITS.disk_inodes + 1),
                        "/mnt/data": (LIMITS.disk_bytes, LIMITS.disk_inodes + 513),
                        "/tmp": (LIMITS.disk_bytes, LIMITS.disk_inodes + 1),
                    },
                    "loose": [],
                    "run": [],
                    "copied": ["", ""],
                    "networks": ["lo"],
                    "agent": ["0000000000000000", "1", "2"],
                    "limits": [64 * 1024, 0],
                }
            )
    assert [name for name, active in layers.items() if not active] == ["own kernel", "rootless engine"]
    host = seen["HostConfig"]
    assert (host["NetworkMode"], host["LogConfig"]["Type"], host["Privileged"]) == ("none", "none", False)
    assert host["PidsLimit"] == LIMITS.processes + 1
    assert host["Memory"] == host["MemorySwap"] == LIMITS.memory_bytes + 256 * MIB
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.5
    binds = {(mount["Destination"], mount["RW"]) for mount in seen["Mounts"] if mount["Type"] == "bind"}
    assert binds == {("/mnt/inputs", False)}
    assert seen["Config"]["User"] == "1000:1000"


async def test_closed_sessions_leave_neither_container_nor_volume(
    tmp_path: Path, podman_engine: str, sandbox_image: str
) -> None:
    with client(podman_engine) as engine:
        async with containers(tmp_path, podman_engine, sandbox_image, pool_size=1) as driver:
            async with opened(driver) as session:
                assert isinstance(session, DockerSession)
                name = session.container.name
                assert len([one for one in volumes_of(engine, driver) if name in one]) == 3
            assert [one for one in volumes_of(engine, driver) if name in one] == []
        assert volumes_of(engine, driver) == []
        assert engine.containers(all=True, filters={"label": f"{LABEL}={driver._owner}"}) == []


async def test_volumes_of_a_killed_server_are_swept_with_its_containers(
    tmp_path: Path, podman_engine: str, sandbox_image: str
) -> None:
    orphan = await asyncio.to_thread(kill_server, tmp_path / "one", podman_engine, sandbox_image)
    with client(podman_engine) as engine:
        # Its stream has ended, and so does the agent.
        assert engine.wait(orphan, timeout=20)["StatusCode"] == 0

        def left() -> list[str]:
            names = [volume["Name"] for volume in engine.volumes()["Volumes"]]
            names += [name for one in engine.containers(all=True) for name in one["Names"]]
            return [name for name in names if orphan in name]

        assert len(left()) == 4
        async with containers(tmp_path / "alive", podman_engine, sandbox_image) as driver, opened(driver) as session:
            assert left() == []
            # Of another directory, and alive: it keeps what it has.
            async with containers(tmp_path / "two", podman_engine, sandbox_image):
                assert len(volumes_of(engine, driver)) == 3
            assert (await run(session, "open('a.txt', 'w').write('x')")).changes == {"a.txt": "created"}


async def test_a_seccomp_profile_that_podman_cannot_read_is_named_with_what_to_do(
    tmp_path: Path, podman_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, podman_engine, sandbox_image) as driver:
        profile = tmp_path / "work" / "seccomp.json"
        profile.unlink()
        with pytest.raises(
            SandboxUnavailable, match=rf"cannot read the server's seccomp profile, {profile}: it must be"
        ):
            await driver.open(SessionSpec("sess_test", LIMITS))
        with client(podman_engine) as engine:
            assert volumes_of(engine, driver) == []


async def test_a_container_that_the_runtime_cannot_make_is_told_in_its_words(
    tmp_path: Path, podman_engine: str, sandbox_image: str
) -> None:
    async with containers(tmp_path, podman_engine, sandbox_image, overhead_bytes=1) as driver:
        with pytest.raises(SandboxUnavailable, match=r"could not make a container: .*unable to set memory limit"):
            await driver.open(SessionSpec("sess_test", replace(LIMITS, memory_bytes=MIB)))
        with client(podman_engine) as engine:
            assert volumes_of(engine, driver) == []


async def test_a_runtime_that_podman_would_not_take_is_refused(
    tmp_path: Path, podman_engine: str, sandbox_image: str
) -> None:
    with pytest.raises(SandboxUnavailable, match=r"docker.runtime is runsc, but .* own configuration, runc: set"):
        async with containers(tmp_path, podman_engine, sandbox_image, runtime="runsc"):
            pass


async def test_an_image_that_podman_does_not_have_is_named_with_the_command_that_builds_it_there(
    tmp_path: Path, podman_engine: str
) -> None:
    with pytest.raises(
        SandboxUnavailable, match=r"no image no-such:1. Build it with `make sandbox-image DOCKER=podman`"
    ):
        async with containers(tmp_path, podman_engine, "no-such:1"):
            pass


async def test_without_root_s_rights_what_is_not_limited_is_told_and_the_rest_holds(
    public_path: Path, rootless_engine: str, sandbox_image: str, input_file: Make
) -> None:
    async with containers(public_path, rootless_engine, sandbox_image) as driver:
        layers = {layer.name: layer for layer in await driver.layers()}
        assert layers["rootless engine"].active
        groups = [layer for name, layer in layers.items() if name.startswith("cgroup ")]
        missing = {layer.name for layer in layers.values() if not layer.active} - {"own kernel"}
        if "version 1" in groups[0].detail:
            assert missing == {"cgroup memory", "cgroup pids", "cgroup cpu", "process limit"}
            assert all("the engine says that it cannot limit this" in layer.detail for layer in groups)
        async with opened(driver, input_file("in.csv")) as session:
            assert isinstance(session, DockerSession)
            with client(rootless_engine) as engine:
                process = engine.inspect_container(session.container.name)["State"]["Pid"]
            # Nobody on the host, and nobody else's user.
            assert (await asyncio.to_thread(os.stat, f"/proc/{process}")).st_uid > 100_000
            assert (await run(session, "open('in.csv').read()")).value == "'a,b\\n1,2\\n'"
            if "cgroup memory" in missing:
                # Not even those of the host that such a container would be shown.
                assert (await run(session, "import os\nos.listdir('/sys/fs/cgroup')")).value == "[]"
            cell = await run(session, "x = 1\ndata = bytearray(300 * 2**20)")
            assert (cell.status, cell.error) == (ExecutionStatus.OUT_OF_MEMORY, "MemoryError")
            assert (await run(session, "x")).value == "1"
            with client(rootless_engine) as engine:
                assert len(volumes_of(engine, driver)) == 3
        with client(rootless_engine) as engine:
            assert volumes_of(engine, driver) == []
