"""The docker driver on the tests' own engine, and a way to cut the engine off."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import docker

from afarensis_server.sandbox.docker import DockerSandbox, DockerSandboxSettings


@asynccontextmanager
async def containers(directory: Path, engine: str, image: str, /, **settings: object) -> AsyncIterator[DockerSandbox]:
    """The docker driver, with these settings. Cold, and without a pool: a test would wait for what it does not need."""
    work = directory / "work"
    defaults: dict[str, object] = {"work_directory": work, "grace_seconds": 1.0, "warm": False, "pool_size": 0}
    values = {"host": engine, "image": image} | defaults | settings
    async with DockerSandbox(DockerSandboxSettings(**values)) as driver:  # type: ignore[arg-type] # by name
        yield driver


@contextmanager
def client(engine: str) -> Iterator["docker.APIClient"]:
    """The engine, asked without the driver."""
    found = docker.APIClient(base_url=engine, version="auto")
    try:
        yield found
    finally:
        found.close()


class Proxy:
    """An address that leads to an engine until it is cut, and again once it is mended."""

    def __init__(self, engine: str, place: Path) -> None:
        self._engine = engine.removeprefix("unix://")
        self._place = place
        self.url = f"unix://{place}"
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def cut(self) -> None:
        """As when the engine's process ends: connections break, and nobody listens."""
        if self._listener is not None:
            # Wakes the thread that accepts, which closes it.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener = None
        self._place.unlink(missing_ok=True)
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Listen."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._place))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            while True:
                ours, _ = listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._engine)
                self._open += [ours, theirs]
                both = [0]
                for source, target in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._carry, args=(source, target, both), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, ended: list[int]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        ended[0] += 1
        if ended[0] == 2:
            source.close()
            target.close()
