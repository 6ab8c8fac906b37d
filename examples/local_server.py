"""A server of the demo's own: a child process on a free loopback port, with a data directory that goes with it."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import afarensis
from afarensis import v1

#: Seconds for a server to be ready: the first start compiles and caches, on a slow machine.
START_SECONDS = 60.0
#: Seconds for a server to drain.
STOP_SECONDS = 20.0


class ServerFailed(Exception):
    """The server did not start."""


@contextmanager
def running_server(target: str | None, log: Path, report: Callable[[str, str], None]) -> Iterator[str]:
    """The target of a server: the given one, or that of a new one which ends with the context.

    The new server writes its log to ``log``.
    """
    if target is not None:
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="afarensis-demo-") as data, log.open("wb") as log_file:
        target = f"127.0.0.1:{_free_port()}"
        command = [sys.executable, "-m", "afarensis_server", "serve", "--listen", target, "--data-dir", data]
        server = subprocess.Popen(command, stdout=log_file, stderr=subprocess.STDOUT)  # noqa: S603  # our own command
        try:
            _wait_until_ready(server, target, log)
            report("server", f"process {server.pid}, log in {log}")
            yield target
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(server: subprocess.Popen[bytes], target: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with afarensis.connect(target) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                client.models.ListModels(v1.ListModelsRequest(), wait_for_ready=True, timeout=1)
            except afarensis.Error:
                continue
            return
    end = (
        f"ended with status {server.returncode}"
        if server.returncode is not None
        else f"is not ready after {START_SECONDS:.0f} s"
    )
    raise ServerFailed(f"The server {end}. Its log:\n\n{log.read_text(errors='replace')[-4000:]}")
