"""A server of the demo's own: a child process on a free loopback port, with a data directory that goes with it."""

import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: Seconds for a server to be ready; the first start on a slow machine takes longest.
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
        command = [sys.executable, "-m", "afarensis_server", "serve", "--listen", "127.0.0.1:0", "--data-dir", data]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log_file) as server:  # noqa: S603  # our own command
            try:
                assert server.stdout is not None
                target = _announced_address(server.stdout)
                if target is None:
                    raise ServerFailed(
                        f"The server is not ready. Its log:\n\n{log.read_text(errors='replace')[-4000:]}"
                    )
                report("server", f"ready in {time.monotonic() - started:.1f} s, log in {log}")
                yield target
            finally:
                _stop(server)


def _announced_address(output: IO[bytes]) -> str | None:
    """What the one line names that a server prints when it is ready; None when it ends or takes too long."""
    readable, _, _ = select.select([output], [], [], START_SECONDS)
    words = output.readline().decode().split() if readable else []
    return words[5].removesuffix(",") if words else None


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
