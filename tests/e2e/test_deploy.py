"""What `deploy/` holds, on a real engine: both images, the compose file, the service."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from afarensis_server import __version__

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
#: Seconds until a server in a container is healthy; it makes sandboxes before.
_HEALTHY_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Composed:
    """The services of the compose file, at work."""

    engine: str
    project: str
    grpc: str
    http: str
    #: Containers of sandboxes that other tests have.
    strangers: frozenset[str]

    def docker(self, *arguments: str) -> str:
        return docker(self.engine, *arguments)

    def sandboxes(self) -> frozenset[str]:
        """Those of this server that run."""
        return sandboxes(self.engine) - self.strangers


def docker(engine: str, *arguments: str) -> str:
    environment = {**os.environ, "DOCKER_HOST": engine}
    done = subprocess.run(["docker", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sandboxes(engine: str) -> frozenset[str]:
    """The ids of all containers of sandboxes that run."""
    found = docker(engine, "ps", "--filter", f"ancestor=afarensis-sandbox:{__version__}", "--format", "{{.ID}}")
    return frozenset(found.split())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def composed(docker_engine: str, sandbox_image: str, server_image: str) -> Iterator[Composed]:
    """The compose file's services, from images that the engine has."""
    path = docker_engine.removeprefix("unix://")
    project = f"afarensis-test-{os.getpid()}"
    ports = [free_port(), free_port()]
    environment = {
        **os.environ,
        "DOCKER_HOST": docker_engine,
        "DOCKER_SOCKET": path,
        "DOCKER_GID": str(Path(path).stat().st_gid),
        "GRPC_PORT": str(ports[0]),
        "HTTP_PORT": str(ports[1]),
        "VERSION": __version__,
        "SOURCES": "built before",
    }
    command = ["docker-compose", "-f", str(DEPLOY / "compose.yaml"), "-p", project]
    strangers = sandboxes(docker_engine)
    began = subprocess.run(
        [*command, "up", "-d", "--no-build"], env=environment, capture_output=True, text=True, check=False
    )
    try:
        assert began.returncode == 0, began.stderr
        yield Composed(docker_engine, project, f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}/v1", strangers)
    finally:
        subprocess.run(
            [*command, "down", "--volumes", "--timeout", "20"], env=environment, capture_output=True, check=False
        )


def test_compose_brings_up_a_server_that_does_the_main_job_in_containers(composed: Composed, tmp_path: Path) -> None:
    server = composed.docker("ps", "-q", "--filter", f"label=com.docker.compose.project={composed.project}")
    assert len(server.split()) == 1, "one service serves; the other has built the image, and ended"
    status, end = "", time.monotonic() + _HEALTHY_SECONDS
    while status != "healthy":
        assert time.monotonic() < end, composed.docker("logs", server)
        time.sleep(0.5)
        status = composed.docker("inspect", "--format", "{{.State.Health.Status}}", server)
    # In a directory of its own: what an earlier demo left would be taken for its work.
    demo = [sys.executable, str(ROOT / "examples/demo.py"), "--target", composed.grpc]
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(demo, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + composed.docker("logs", server)
    assert (tmp_path / "demo-out/penguin_summary.csv").read_text().startswith("species,penguins,mean_g")
    assert composed.sandboxes(), "sessions are containers"
    with urllib.request.urlopen(f"{composed.http}/models", timeout=10) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["direct"]
    inspected = json.loads(composed.docker("inspect", server))[0]
    assert inspected["Config"]["User"] == "65532:65532"
    assert inspected["HostConfig"]["ReadonlyRootfs"]
    assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
    # What the server made goes with it.
    composed.docker("stop", "--time", "40", server)
    assert json.loads(composed.docker("inspect", server))[0]["State"]["ExitCode"] == 0
    assert not composed.sandboxes()


def test_images_say_what_they_are(docker_engine: str, sandbox_image: str, server_image: str) -> None:
    for image in (sandbox_image, server_image):
        (about,) = json.loads(docker(docker_engine, "image", "inspect", image))
        assert about["Config"]["Labels"]["org.opencontainers.image.version"] == __version__
        assert about["Config"]["User"] not in ("", "0", "root")
    assert docker(docker_engine, "run", "--rm", "--network=none", server_image, "version") == __version__


def test_server_in_a_container_says_when_its_engine_is_out_of_reach(docker_engine: str, server_image: str) -> None:
    command = ["docker", "--host", docker_engine, "run", "--rm", "--network=none", server_image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No sandbox can be opened" in done.stderr
    assert "docker.sock" in done.stderr


def test_compose_files_speak_of_this_version() -> None:
    defaults = re.findall(r"\$\{VERSION:-([^}]*)\}", (DEPLOY / "compose.yaml").read_text())
    assert len(defaults) > 3
    assert set(defaults) == {__version__}


def test_rootless_example_mounts_no_socket() -> None:
    lines = (DEPLOY / "compose.rootless.yaml").read_text().splitlines()
    given = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    assert ".sock" not in given
    assert "AFARENSIS_DOCKER_HOST: tcp://" in given
    # What it takes the place of mounts one.
    assert "volumes: !override" in given


def test_service_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("the systemd unit was not checked: there is no systemd-analyze here")
    unit = tmp_path / "afarensis.service"
    # It wants a program that exists.
    text = (DEPLOY / "afarensis.service").read_text().replace("/opt/afarensis/.venv/bin/afarensis-server", "/bin/true")
    unit.write_text(text)
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "afarensis.service" not in done.stderr, done.stderr
