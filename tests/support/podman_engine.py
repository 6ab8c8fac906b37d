"""Podman for the tests: Debian's, with the image of their dockerd, and nothing shared with the machine's own."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .docker_engine import SANDBOX_IMAGE, CannotHaveOneError, Engine, answer_awaited, kept, stop

#: What Debian calls the programs that are needed; the second one gives an ordinary user's containers their users.
PACKAGES = {"podman": "podman", "newuidmap": "uidmap"}
#: No systemd here; and no lock or event that the machine's own Podman would have a part in.
_CONFIGURATION = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "runc"
"""
#: Ends with whoever started it, also if that is killed.
_BOUND = ("setpriv", "--pdeathsig=TERM")
#: An ordinary user that no machine has, and the users that containers of his may have.
_USER = 54321
_USERS = "54321:5000000:65536\n"


@contextmanager
def running(docker: Engine) -> Iterator[str]:
    """Start a Podman of root's, and stop it; its address."""
    with _places(docker, "podman") as (run, root):
        # What is mounted goes with it.
        yield from _serve(docker, run, root, ("unshare", "--mount", *_BOUND))


@contextmanager
def running_rootless(docker: Engine) -> Iterator[str]:
    """Start a Podman of an ordinary user's, and stop it; its address."""
    with _places(docker, "rootless") as (run, root):
        for directory in (run, root):
            os.chown(directory, _USER, _USER)
        # The user is known within a mount namespace alone. What is kept may lie where he may not look.
        files = {"passwd": f"podman:x:{_USER}:{_USER}::{run}:/bin/sh\n", "group": f"podman:x:{_USER}:\n"}
        files |= {"subuid": _USERS, "subgid": _USERS}
        lines = [f"mount --bind {shlex.quote(str(root))} {run}/root"]
        for name, content in files.items():
            (run / name).write_text(Path("/etc", name).read_text() * (content != _USERS) + content)
            lines.append(f"mount --bind {run}/{name} /etc/{name}")
        (run / "root").mkdir()
        become = f"{shlex.join(_BOUND)} --reuid={_USER} --regid={_USER} --clear-groups"
        lines.append(f'exec {become} env HOME={run} XDG_RUNTIME_DIR={run} "$@"')
        script = " && ".join(lines)
        try:
            yield from _serve(docker, run, run / "root", ["unshare", "--mount", "sh", "-c", script, "sh"])
        finally:
            # What keeps the user's namespaces between one command and the next.
            with suppress(OSError, ValueError):
                os.kill(int((run / "tmp/pause.pid").read_text()), signal.SIGKILL)


@contextmanager
def _places(docker: Engine, name: str) -> Iterator[tuple[Path, Path]]:
    """A directory for this run, and one for the images, which is kept."""
    with ExitStack() as stack:
        # Short, since a path to a socket can have 107 bytes.
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="afp-", ignore_cleanup_errors=True)))
        root = stack.enter_context(kept(docker.cache, name, run))
        for state in ("libpod", "volumes"):
            # Of containers of a run that was killed.
            shutil.rmtree(root / state, ignore_errors=True)
        (run / "containers.conf").write_text(_CONFIGURATION)
        yield run, root


def _serve(docker: Engine, run: Path, root: Path, prefix: Sequence[str]) -> Iterator[str]:
    environment = {**os.environ, "CONTAINERS_CONF": str(run / "containers.conf")}
    podman = [*prefix, "podman", f"--root={root}", f"--runroot={run}/run", f"--tmpdir={run}/tmp"]
    podman.append("--storage-driver=overlay")
    _load(docker, podman, environment)
    url = f"unix://{run}/podman.sock"
    place = docker.cache / "podman.log"
    with place.open("ab") as log:
        command = [*podman, "system", "service", "--time=0", url]
        process = subprocess.Popen(
            command, cwd="/", env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            answer_awaited(url, process, place)
            yield url
        finally:
            stop(process)


def _load(docker: Engine, podman: Sequence[str], environment: dict[str, str]) -> None:
    """Have dockerd's image of the sandbox in Podman, in the place of earlier ones."""
    image = docker.docker("images", "--quiet", "--no-trunc", SANDBOX_IMAGE)
    if _podman(podman, environment, "image", "exists", image).returncode == 0:
        return
    with tempfile.TemporaryFile(dir=docker.cache) as archive:
        command = ["docker", "--host", docker.url, "save", SANDBOX_IMAGE]
        subprocess.run(command, stdout=archive, check=True)
        archive.seek(0)
        for arguments in (("load", "--quiet"), ("image", "prune", "--force")):
            done = _podman(podman, environment, *arguments, stdin=archive.fileno())
            if done.returncode != 0:
                raise CannotHaveOneError(f"podman {arguments[0]} failed: {done.stderr.strip()[-600:]}")


def _podman(
    podman: Sequence[str], environment: dict[str, str], *arguments: str, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*podman, *arguments], cwd="/", env=environment, stdin=stdin, capture_output=True, text=True, check=False
    )
