"""A container engine of the tests' own: a real dockerd, the base image, and the images of `deploy/` built on it.

No registry is asked: the base is made from Debian's packages. Everything is kept in ``$CONTAINER_TEST_CACHE``
(``~/.cache/afarensis-tests``) between runs, so that only the first one takes minutes.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from afarensis_server import __version__

ROOT = Path(__file__).parents[2]
SANDBOX_IMAGE = f"afarensis-sandbox:{__version__}"
SERVER_IMAGE = f"afarensis-server:{__version__}"

#: What Debian calls the programs that are needed. The proxy publishes ports of containers without iptables.
PACKAGES = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "mmdebstrap": "mmdebstrap",
    "runsc": "runsc",
    "docker-compose": "docker-compose",
}
_CERTIFICATES = Path("/usr/local/share/ca-certificates")
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class CannotHaveOneError(Exception):
    """This machine can have no engine; the message says why."""


def install(packages: Mapping[str, str]) -> None:
    """Have programs, from Debian's packages where they are missing. Raises CannotHaveOneError."""
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if os.geteuid() != 0:
        raise CannotHaveOneError("only root can start a container engine")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotHaveOneError(f"there is neither {' nor '.join(missing)} nor apt-get to install it")
    # So that no service is started by the packages: the engine of these tests is its own.
    environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # On a new machine the lists of packages may be old, or none.
        subprocess.run(["apt-get", "update", "-qq"], env=environment, capture_output=True, check=False)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotHaveOneError(f"apt-get install {' '.join(missing)} failed: {done.stderr.strip()[-300:]}")


@dataclass(frozen=True, slots=True)
class Engine:
    """A dockerd at work."""

    url: str
    cache: Path

    def docker(self, *arguments: str, stdin: int | None = None) -> str:
        """What a command of docker's says. Raises RuntimeError with what it complains about."""
        environment = {**os.environ, "DOCKER_HOST": self.url, "DOCKER_CLI_HINTS": "false"}
        done = subprocess.run(
            ["docker", *arguments], env=environment, cwd=ROOT, stdin=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout.strip()

    def base(self) -> str:
        """The name of the base image, which is made if it is not there."""
        certificates = b"".join(path.read_bytes() for path in sorted(_CERTIFICATES.glob("*.crt")))
        key = hashlib.sha256(_BASE_PACKAGES.encode() + certificates).hexdigest()[:12]
        name = f"afarensis-test-base:{key}"
        if self.docker("images", "--quiet", name):
            return name
        archive = self.cache / f"base-{key}.tar"
        if not archive.exists():
            new = archive.with_suffix(f".{os.getpid()}")
            command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_BASE_PACKAGES}"]
            if certificates:
                # Those that this machine trusts beside the usual ones: it may reach the package index by them only.
                command += [f"--customize-hook=copy-in {_CERTIFICATES} /usr/local/share"]
                command += ['--customize-hook=chroot "$1" update-ca-certificates']
            done = subprocess.run(
                [*command, "bookworm", "--format=tar", str(new)], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise CannotHaveOneError(f"no base image could be made: {done.stderr.strip()[-300:]}")
            new.rename(archive)
        self.docker("import", str(archive), name)
        return name

    def build(self, what: str, image: str, base: str) -> str:
        """Build an image of `deploy/`; its id."""
        # On the host's network: there is no other here. Steps that did not change come from the cache of the engine.
        arguments = ["--network=host", "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"VERSION={__version__}"]
        if what == "sandbox":
            script = "server/afarensis_server/sandbox/agent/sources.py"
            sources = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=True)
            arguments += ["--build-arg", f"SOURCES={sources.stdout.strip()}"]
        self.docker("build", "--quiet", *arguments, "-f", f"deploy/{what}.Dockerfile", "-t", image, ".")
        return self.docker("images", "--quiet", "--no-trunc", image)


@contextmanager
def running(cache: Path) -> Iterator[Engine]:
    """Start an engine, and stop it."""
    with ExitStack() as stack:
        # Short, since a path to a socket can have 107 bytes.
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="afd-", ignore_cleanup_errors=True)))
        data = stack.enter_context(kept(cache, "docker", run))
        _end_left_over(data / "dockerd.pid")
        configuration = run / "daemon.json"
        runsc = {"path": shutil.which("runsc"), "runtimeArgs": ["--platform=ptrace", "--network=none"]}
        configuration.write_text(json.dumps({"runtimes": {"runsc": runsc}}))
        url = f"unix://{run}/docker.sock"
        command = ["dockerd", f"--config-file={configuration}", f"--data-root={data}", f"--exec-root={run}/exec"]
        command += [f"--pidfile={data}/dockerd.pid", f"--host={url}", "--log-level=warn"]
        # Nothing of the host's is touched: no bridge, no rules. Networks that containers ask for are their own.
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        log = stack.enter_context((cache / "dockerd.log").open("ab"))
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        stack.callback(stop, process)
        answer_awaited(url, process, cache / "dockerd.log")
        yield Engine(url, cache)


@contextmanager
def kept(cache: Path, name: str, run: Path) -> Iterator[Path]:
    """A kept directory, unless another run has it: that one's engine is not to be shared; ours begins empty then."""
    with (cache / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = cache / name
        except BlockingIOError:
            place = run / "data"
        place.mkdir(exist_ok=True)
        yield place


def _end_left_over(pidfile: Path) -> None:
    """End the engine of a run that was killed."""
    with suppress(OSError, ValueError):
        pid = int(pidfile.read_text())
        if b"dockerd" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
            _until(lambda: not Path(f"/proc/{pid}").exists(), _STOP_SECONDS)
    pidfile.unlink(missing_ok=True)


def answer_awaited(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise CannotHaveOneError(f"the engine ended: {log.read_text(errors='replace')[-600:]}")
        command = ["docker", "--host", url, "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not _until(answers, _START_SECONDS):
        raise CannotHaveOneError(f"the engine did not answer within {_START_SECONDS:g} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End an engine that was started."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def cache_directory() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "afarensis-tests")
    cache = Path(os.environ.get("CONTAINER_TEST_CACHE") or default)
    cache.mkdir(parents=True, exist_ok=True)
    return cache
