"""The docker driver on the tests' own engine, and a way to cut the engine off."""

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import docker

from afarensis_server.sandbox.docker import DockerSandboxSettings
from afarensis_server.sandbox.docker.driver import DockerSandbox

from .sandbox import REPOSITORY


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


_SERVER = """
import asyncio, sys
from pathlib import Path
from tests.support.containers import containers
from tests.support.sandbox import opened, run
async def main():
    async with containers(Path(sys.argv[1]), *sys.argv[2:]) as driver, opened(driver) as session:
        print(session.container.name, flush=True)
        await run(session, "import time; time.sleep(600)", timeout_seconds=600)
asyncio.run(main())
"""


def kill_server(directory: Path, engine: str, image: str) -> str:
    """Start a server with a session, and kill it; the container's name."""
    arguments = [sys.executable, "-c", _SERVER, str(directory), engine, image]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True) as server:
        assert server.stdout is not None
        name = server.stdout.readline().strip()
        server.kill()
    return name


@asynccontextmanager
async def over_tls(engine: str, certificates: Path) -> AsyncIterator[str]:
    """An address that leads to an engine for whoever has these certificates, as an engine elsewhere would have it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving[asyncio.current_task()] = writer
        to_engine = await asyncio.open_unix_connection(engine.removeprefix("unix://"))
        await asyncio.gather(carry(reader, to_engine[1]), carry(to_engine[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.wait([task for task in serving if task is not None])


def make_certificates(directory: Path) -> Path:
    """An authority's certificate, a server's for 127.0.0.1 and a client's, under the names that Docker has for them."""
    directory.mkdir()

    def openssl(*arguments: str, text: str = "") -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=directory, input=text.encode(), capture_output=True, check=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    for name, place in (("server", "server-"), ("client", "")):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{place}key.pem", "-out", f"{name}.csr")
        signer = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", "/dev/stdin")
        names = "subjectAltName=IP:127.0.0.1\n"
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{place}cert.pem", text=names)
    return directory


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
