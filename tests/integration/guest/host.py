"""A plain host for a guest: a real Python process with two pipes and a socket, read in the order things arrive."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from afarensis_server.sandbox.guest.frames import FrameBuffer, encode

REPOSITORY = Path(__file__).parents[3]
GUEST = REPOSITORY / "server" / "afarensis_server" / "sandbox" / "guest"

START = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from afarensis_guest.runner import prepare, serve
prepare()
serve(socket.socket(fileno=int(sys.argv[2])))
"""


def guest_python() -> str:
    """The guest environment's interpreter, or the running one where there is none."""
    installed = REPOSITORY / ".guest" / "bin" / "python"
    fallback = str(installed) if installed.exists() else sys.executable
    return os.environ.get("AFARENSIS_SANDBOX_GUEST_PYTHON", fallback)


@dataclass
class Cell:
    """What one cell sent, in the order it arrived."""

    #: ("stdout" | "stderr", text) and ("display", {media type: text or bytes}).
    events: list[tuple[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return str(self.result["status"])

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = self.result["error"]
        return error

    def text(self, stream: str) -> str:
        return "".join(data for kind, data in self.events if kind == stream)

    @property
    def stdout(self) -> str:
        return self.text("stdout")

    @property
    def stderr(self) -> str:
        return self.text("stderr")

    @property
    def displays(self) -> list[dict[str, Any]]:
        return [data for kind, data in self.events if kind == "display"]

    @property
    def shown(self) -> str:
        """text/plain of the only display."""
        (display,) = self.displays
        return str(display["text/plain"])


class GuestDied(Exception):
    """The guest's process ended."""


class Guest:
    """A running guest."""

    def __init__(self, directory: Path, cache: Path, python: list[str] | None = None) -> None:
        link = directory / "path" / "afarensis_guest"
        link.parent.mkdir()
        link.symlink_to(GUEST)
        self.data = directory / "data"
        self.data.mkdir()
        self._stdout, stdout = os.pipe()
        self._stderr, stderr = os.pipe()
        self._control, control = socket.socketpair()
        self.process = subprocess.Popen(
            [*(python or [guest_python(), "-I"]), "-B", "-c", START, str(link.parent), str(control.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[control.fileno()],
            cwd=self.data,
            env={
                "HOME": str(self.data),
                "PATH": os.environ["PATH"],
                "OPENBLAS_NUM_THREADS": "1",
                "MPLCONFIGDIR": str(cache),
            },
        )
        os.close(stdout)
        os.close(stderr)
        control.close()
        self._streams = {self._stdout: "stdout", self._stderr: "stderr"}
        self._frames = FrameBuffer(256 * 1024, 16 * 1024 * 1024)
        self._count = 0
        #: Seconds from when there is something to read until it is read, as with a host that has much to do.
        self.lag = 0.0
        ready = Cell()
        self._read_until(ready, "ready")
        self.greeting = ready

    def run(self, code: str) -> Cell:
        self.start(code)
        return self.finish()

    def start(self, code: str) -> None:
        self._count += 1
        self._control.sendall(encode({"type": "execute", "id": self._count, "code": code}))

    def finish(self) -> Cell:
        cell = Cell()
        self._read_until(cell, "result")
        assert cell.result["id"] == self._count
        return cell

    def finish_after_output(self, text: str, signal_number: int = signal.SIGINT) -> Cell:
        """Wait for a piece of output, send a signal, and read to the end of the cell."""
        cell = Cell()
        while text not in cell.stdout:
            self._read_some(cell)
        self.process.send_signal(signal_number)
        self._read_until(cell, "result")
        return cell

    def run_until_seen(self, code: str, text: str) -> Cell:
        """Run code that prints this text and then waits, by `open('seen')`, until it has arrived here."""
        seen = self.data / "seen"
        os.mkfifo(seen)
        try:
            self.start(code)
            cell = Cell()
            while text not in cell.stdout:
                assert not self._read_some(cell, "result"), "the code ended before its output was seen"
            seen.write_bytes(b"")
            self._read_until(cell, "result")
        finally:
            seen.unlink()
        return cell

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> int:
        """End the guest the way the host does, and return its exit status."""
        self._control.close()
        for descriptor in (self._stdout, self._stderr):
            os.close(descriptor)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._control.fileno() >= 0:
            self.close()

    def _read_until(self, cell: Cell, kind: str) -> None:
        while not self._read_some(cell, kind):
            pass

    def _read_some(self, cell: Cell, kind: str = "") -> bool:
        ready, _, _ = select.select([self._control.fileno(), *self._streams], [], [], 60)
        assert ready, "the guest has been silent for a minute"
        if self.lag:
            time.sleep(self.lag)
            ready, _, _ = select.select([self._control.fileno(), *self._streams], [], [], 0)
        # The guest waits until one channel is read before it uses another, so the order within a round is free.
        for descriptor in [one for one in ready if one in self._streams]:
            data = os.read(descriptor, 1 << 20)
            if data:
                cell.events.append((self._streams[descriptor], data.decode(errors="replace")))
        if self._control.fileno() not in ready:
            return False
        data = self._control.recv(1 << 20)
        if not data:
            raise GuestDied(self.process.wait(10), cell.stderr)
        done = False
        for header, body in self._frames.feed(data):
            if header["type"] == "display":
                cell.events.append(("display", self._bundle(header, body)))
            else:
                cell.result = header
                done = header["type"] == kind
        return done

    def _bundle(self, header: dict[str, Any], body: bytes) -> dict[str, Any]:
        assert header["id"] == self._count
        bundle: dict[str, Any] = {}
        for one in header["representations"]:
            data, body = body[: one["length"]], body[one["length"] :]
            bundle[one["media_type"]] = data.decode() if one["text"] else data
        assert not body
        return bundle
