"""`afarensis-server serve` as a process of its own: started for real, told to stop for real, and killed for real.

with ServerProcess(tmp_path, {"openai.base_url": endpoint.base_url}) as server:
    channel = grpc.aio.insecure_channel(server.address)
    ...
    server.kill()      # SIGKILL: what it had in memory is gone
    server.start()     # on the same data directory; the address is a new one
    assert server.stop() == 0   # SIGTERM: it drains
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

#: Seconds for a server to be ready; the first start on a busy machine takes longest.
_START_SECONDS = 60.0
#: Seconds for a server to end once it was told to.
_STOP_SECONDS = 60.0


class ServerProcess:
    """A server on a data directory of its own and a free port; a context manager that leaves no process behind.

    Args:
        directory: where its data and its log are.
        settings: what is not to be as by default, by section and name: ``{"runs.ttl_seconds": 5}``.
        program: the module that is run, and arguments of its own.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, object] | None = None,
        program: Sequence[str] = ("afarensis_server",),
    ) -> None:
        self._program = program
        self.data_directory = directory / "data"
        #: What the server wrote to standard error, over all its starts.
        self.log = directory / "server.log"
        #: Where it can be reached; a new address after each start.
        self.address = ""
        self._settings = {"sandbox.pool_size": 1, "server.log_format": "json", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self, listen: str = "127.0.0.1:0") -> None:
        """Start it, again or for the first time, and return once it answers calls."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        command = [sys.executable, "-m", *self._program, "serve", "--listen", listen]
        command += ["--data-dir", str(self.data_directory)]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        # Settings of whoever runs the tests are not meant for this server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AFARENSIS_")}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            readable, _, _ = select.select([output], [], [], _START_SECONDS)
            words = output.readline().decode().split() if readable else []
        if not words:
            self.kill()
            raise AssertionError(f"the server is not ready; its log ends with:\n{self.log.read_text()[-4000:]}")
        self.address = words[5].removesuffix(",")
        #: The base URL over HTTP, where that is on.
        self.base_url = words[-1] if len(words) > 6 else ""

    def terminate(self) -> None:
        """Ask it to stop, and return at once."""
        self._running().terminate()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._running().wait(_STOP_SECONDS)

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself in this time."""
        try:
            self._running().wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> int:
        """Ask it to stop, and wait until it has: the exit code."""
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        """End it as a crash or a lost machine would, and wait until it is gone."""
        self._running().kill()
        self.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process


class Family:
    """The processes that a process has started, directly or not, as they are now; remembered beyond its end."""

    def __init__(self, pid: int) -> None:
        parents = {int(entry.name): _parent_of(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        members: set[int] = set()
        newest = {pid}
        while newest:
            newest = {child for child, parent in parents.items() if parent in newest and child not in members}
            members |= newest
        # A descriptor stays with its process, where a number goes to another one.
        self._handles: dict[int, int] = {}
        for member in members:
            try:
                self._handles[member] = os.pidfd_open(member)
            except ProcessLookupError:
                continue

    def __len__(self) -> int:
        return len(self._handles)

    def left_after(self, seconds: float) -> list[int]:
        """Wait until all have ended, or so long at most; those that still run then, which are ended now."""
        poll = select.poll()
        waiting = {handle: pid for pid, handle in self._handles.items()}
        for handle in waiting:
            poll.register(handle, select.POLLIN)
        deadline = time.monotonic() + seconds
        while waiting and (remaining := deadline - time.monotonic()) > 0:
            for handle, _ in poll.poll(remaining * 1000):
                poll.unregister(handle)
                del waiting[handle]
        for handle in waiting:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in self._handles.values():
            os.close(handle)
        return list(waiting.values())


def _parent_of(entry: Path) -> int:
    try:
        # The name, in parentheses, may hold anything, parentheses included.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
