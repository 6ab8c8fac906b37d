"""Real sandboxes for tests: a driver, sessions, and what one cell showed."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from afarensis_server.sandbox.docker import DockerSandboxSettings
from afarensis_server.sandbox.docker.driver import DockerSandbox
from afarensis_server.sandbox.docker.session import DockerSession
from afarensis_server.sandbox.driver import (
    Display,
    ExecutionEvent,
    ExecutionStatus,
    FileChange,
    InputFile,
    Output,
    OutputStream,
    Result,
    SandboxDriver,
    SandboxSession,
    SessionLimits,
    SessionSpec,
)
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings, zygotes
from afarensis_server.sandbox.local.readiness import wait_readable

from .engine import require

REPOSITORY = Path(__file__).parents[2]
MIB = 2**20

LIMITS = SessionLimits(
    memory_bytes=256 * MIB,
    cpu_cores=1.0,
    processes=48,
    open_files=256,
    disk_bytes=16 * MIB,
    disk_inodes=500,
    output_bytes=MIB,
    display_bytes=MIB,
)

#: Finds the control socket and the number of the request that runs, as hostile code would.
SOCKET = """
import os, socket, stat, json, struct, sys
def is_socket(fd):
    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError: return False
fd = next(fd for fd in range(3, 256) if is_socket(fd))
control = socket.socket(fileno=os.dup(fd))
def frame(header, body=b""):
    data = json.dumps(header).encode()
    return struct.pack(">II", len(data), len(body)) + data + body
caller = sys._getframe()
while "request" not in caller.f_locals: caller = caller.f_back
request = caller.f_locals["request"]
def shown(forms, body=b""):
    return frame({"type": "display", "id": request, "representations": forms}, body)
"""


def guest_python() -> Path:
    """The Python with the packages that code may import."""
    return Path(os.environ.get("AFARENSIS_SANDBOX_GUEST_PYTHON") or REPOSITORY / ".guest" / "bin" / "python")


@dataclass(frozen=True, slots=True)
class Cell:
    """All that one execution showed."""

    events: tuple[ExecutionEvent, ...]

    @property
    def result(self) -> Result:
        last = self.events[-1]
        assert isinstance(last, Result)
        assert sum(isinstance(event, Result) for event in self.events) == 1
        return last

    @property
    def status(self) -> ExecutionStatus:
        return self.result.status

    @property
    def stdout(self) -> str:
        return self._text(OutputStream.STDOUT)

    @property
    def stderr(self) -> str:
        return self._text(OutputStream.STDERR)

    @property
    def value(self) -> str | None:
        """The text of the only displayed value."""
        displays = [event for event in self.events if isinstance(event, Display)]
        assert len(displays) <= 1
        texts = [
            form.text for display in displays for form in display.representations if form.media_type == "text/plain"
        ]
        return texts[0] if texts else None

    @property
    def error(self) -> str:
        """The name of the exception that ended the code."""
        return self.result.error.name if self.result.error is not None else ""

    @property
    def exceeded(self) -> set[str]:
        return {limit.name for limit in self.result.exceeded_limits}

    @property
    def changes(self) -> dict[str, str]:
        return {event.path: event.kind.value for event in self.events if isinstance(event, FileChange)}

    def _text(self, stream: OutputStream) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Output) and event.stream is stream)


async def run(session: SandboxSession, code: str, timeout_seconds: float = 20.0) -> Cell:
    """Execute a cell to its end."""
    return Cell(tuple([event async for event in session.execute(code, timeout_seconds=timeout_seconds)]))


async def read(session: SandboxSession, path: str) -> bytes:
    return b"".join([chunk async for chunk in session.read_file(path)])


@asynccontextmanager
async def opened(driver: SandboxDriver, *files: InputFile, **limits: float) -> AsyncIterator[SandboxSession]:
    """A session with the usual limits, or with others where they are named."""
    spec = SessionSpec(session_id="sess_test", limits=replace(LIMITS, **limits), files=files)  # type: ignore[arg-type] # names and types are SessionLimits'
    session = await driver.open(spec)
    try:
        yield session
    finally:
        await session.close()


def parametrize_drivers(metafunc: pytest.Metafunc, *, every_test: bool) -> None:
    """Run tests that take a ``driver`` on the local one, on containers, and on gVisor and Podman if they are marked so.

    Where it is not ``every_test`` that runs in containers, those do that are marked ``on_docker``. All of them run on
    Podman, too, where AFARENSIS_TEST_PODMAN is set.
    """
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    on_podman = "on_podman" in marks or "AFARENSIS_TEST_PODMAN" in os.environ
    podman = pytest.param("podman", marks=pytest.mark.engine("podman"))
    if "driver" not in metafunc.fixturenames:
        if "docker_engine" in metafunc.fixturenames and on_podman and "on_dockerd" not in marks:
            metafunc.parametrize("docker_engine", ["engine", podman], indirect=True, scope="session")
        return
    drivers: list[object] = ["local"]
    if "AFARENSIS_TEST_LOCAL_ONLY" not in os.environ:
        if "on_local" not in marks and (every_test or "on_docker" in marks):
            drivers.append(pytest.param("docker", marks=pytest.mark.engine))
            if on_podman:
                drivers.append(podman)
        if "on_gvisor" in marks:
            drivers.append(pytest.param("gvisor", marks=pytest.mark.engine))
    metafunc.parametrize("driver", drivers, indirect=True, scope="session")


def make_driver(request: pytest.FixtureRequest, directory: Path, **settings: object) -> SandboxDriver:
    """The driver that a test is parametrized with."""
    common = {"work_directory": directory / "work", "grace_seconds": 1.0} | settings
    if request.param == "local":
        return LocalSandbox(LocalSandboxSettings(guest_python=guest_python(), **common))  # type: ignore[arg-type] # by name
    # Cold: a container for each test would spend its time on imports.
    containers = {"warm": False, "runtime": "runsc" if request.param == "gvisor" else ""} | common
    return DockerSandbox(
        DockerSandboxSettings(
            host=require(request, "podman" if request.param == "podman" else "engine"),
            image=request.getfixturevalue("sandbox_image"),
            **containers,  # type: ignore[arg-type] # by name
        )
    )


@asynccontextmanager
async def local(directory: Path, **settings: object) -> AsyncIterator[LocalSandbox]:
    """The local driver, with these settings."""
    work = directory / "work"
    defaults: dict[str, object] = {"guest_python": guest_python(), "work_directory": work, "grace_seconds": 1.0}
    async with LocalSandbox(LocalSandboxSettings(**(defaults | settings))) as driver:  # type: ignore[arg-type] # by name
        yield driver


def guest_with(code: str, directory: Path) -> Path:
    """A copy of the guest with an addition to its entry, for `zygotes._GUEST_CODE`."""
    shutil.copytree(zygotes._GUEST_CODE, directory)
    with (directory / "runner.py").open("a") as runner:
        runner.write(code)
    return directory


async def ended(session: SandboxSession) -> None:
    """Wait until the interpreter has ended by itself."""
    if isinstance(session, DockerSession):
        while await session.container.answers():
            pass
    else:
        await session.place.interpreter.ended()  # type: ignore[attr-defined] # the local driver's


async def spoken(session: SandboxSession) -> None:
    """Wait until the interpreter has said something that nobody asked for."""
    if isinstance(session, DockerSession):
        while await session.container.answers():
            pass
    else:
        control = session.place.interpreter.control  # type: ignore[attr-defined] # the local driver's
        await wait_readable((control.fileno(),), 5)


def process_of(session: SandboxSession) -> int:
    pid: int = session.place.interpreter.pid  # type: ignore[attr-defined] # the local driver's
    return pid
