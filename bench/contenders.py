"""Starts what is measured: servers of this repository, the bare one, the endpoint, and what drives ipykernel."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from afarensis import v1

_ROOT = Path(__file__).parents[1]
#: What a line of an answer may have; times of many calls are in one.
_LINE_BYTES = 16 * 1024 * 1024
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
#: Variables that would slow one side or the other: without bytecode every start compiles, and OpenBLAS would take a
#: kernel for another processor than this one.
_UNWANTED = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"})

#: Output is cut at a mebibyte otherwise.
BULK = {"sandbox.output_bytes": "1GiB"}

#: The imports that every first cell asks for, and everybody's users have.
IMPORTS = "import numpy, pandas, matplotlib.pyplot as plt; print(1)"


class Server:
    """A server of this repository, with a data directory that goes with it; an async context manager."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        self._settings = settings
        self._data = tempfile.TemporaryDirectory(prefix="afarensis-bench-")
        self.data = Path(self._data.name, "data")

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "afarensis_server", "serve", "--listen", "127.0.0.1:0"]
        command += ["--http", "127.0.0.1:0", "--data-dir", str(self.data), "--set", "server.log_level=warning"]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        self._process, line = await _start(command, Path(self._data.name, "server.log"))
        self.pid = self._process.pid
        words = line.split()
        self.base_url = words[-1]
        self.channel = grpc.aio.insecure_channel(words[5].removesuffix(","), options=_OPTIONS)
        self.sessions = v1.SessionServiceStub(self.channel)
        self.files = v1.FileServiceStub(self.channel)
        self.assistants = v1.AssistantServiceStub(self.channel)
        self.threads = v1.ThreadServiceStub(self.channel)
        self.runs = v1.RunServiceStub(self.channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.channel.close()
        await _stop(self._process)
        self._data.cleanup()

    async def open(self, **fields: Any) -> str:
        """Open a session; its id."""
        return (await self.sessions.CreateSession(v1.CreateSessionRequest(**fields))).session.id

    async def execute(self, session_id: str, code: str) -> int:
        """Run code to its end; the characters that it printed."""
        printed = 0
        event = v1.ExecutionEvent()
        async for item in self.sessions.Execute(v1.ExecuteRequest(session_id=session_id, code=code)):
            event = item.event
            if event.HasField("output"):
                printed += len(event.output.text)
        if event.result.status != v1.EXECUTION_STATUS_OK or event.result.dropped_bytes:
            raise RuntimeError(f"{code[:60]!r} did not do what it should: {event}")
        return printed

    async def assistant(self, model: str, *, code: bool = True) -> str:
        """Create an assistant, with the code interpreter or without; its id."""
        tools = [v1.Tool(code_interpreter=v1.CodeInterpreterTool())] if code else []
        created = await self.assistants.CreateAssistant(v1.CreateAssistantRequest(model=model, tools=tools))
        return created.assistant.id

    async def thread(self) -> str:
        return (await self.threads.CreateThread(v1.CreateThreadRequest())).thread.id

    async def run(self, thread_id: str, assistant_id: str, text: str) -> AsyncIterator[v1.RunEvent]:
        """Run an assistant on a message to its end: the events as they come."""
        new = v1.CreateRunRequest(
            thread_id=thread_id, assistant_id=assistant_id, additional_messages=[v1.MessageInput(text=text)]
        )
        item = v1.CreateRunStreamResponse()
        async for item in self.runs.CreateRunStream(v1.CreateRunStreamRequest(run=new)):
            if item.HasField("event"):
                yield item.event
        if item.event.run.status != v1.RUN_STATUS_COMPLETED:
            raise RuntimeError(f"{text[:60]!r} did not do what it should: {item}")

    async def close(self, session_id: str) -> None:
        await self.sessions.CloseSession(v1.CloseSessionRequest(session_id=session_id))

    async def time_execute(self, session_id: str, code: str, count: int) -> list[float]:
        """Milliseconds that each of some executions took, one after another."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await self.execute(session_id, code)
            times.append((time.perf_counter() - start) * 1e3)
        return times


@asynccontextmanager
async def bare_server() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the server of `floor`."""
    process, address = await _start([sys.executable, "-m", "bench.floor"], None)
    try:
        async with grpc.aio.insecure_channel(address.strip(), options=_OPTIONS) as channel:
            yield channel
    finally:
        await _stop(process)


@asynccontextmanager
async def endpoint_process() -> AsyncIterator[str]:
    """The base URL of `endpoint`, which is a process of its own."""
    process, url = await _start([sys.executable, "-m", "bench.endpoint"], None)
    try:
        yield url.strip()
    finally:
        await _stop(process)


class Kernels:
    """The process of `kernels`; an async context manager."""

    async def __aenter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="afarensis-bench-")
        self._process = await asyncio.create_subprocess_exec(
            _ROOT / ".bench/bin/python",
            _ROOT / "bench/kernels.py",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A history and a profile of its own.
            env={**environment(), "IPYTHONDIR": self._home.name, "JUPYTER_RUNTIME_DIR": self._home.name},
            limit=_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends its kernels, then itself
        await self._process.wait()
        self._home.cleanup()

    async def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"operation": operation, **arguments}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"ipykernel: {answer['error']}")
        return answer


def guest_python() -> str:
    """The interpreter of the environment that sessions have."""
    return str(_ROOT / ".guest/bin/python")


def environment() -> dict[str, str]:
    """The environment without what would slow somebody down."""
    return {name: value for name, value in os.environ.items() if name not in _UNWANTED}


async def _start(command: list[str], log: Path | None) -> tuple[asyncio.subprocess.Process, str]:
    """Start a program that prints one line when it is ready."""
    with open(log or os.devnull, "wb") as errors:  # noqa: ASYNC230, PTH123 - nothing else runs yet
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=errors, cwd=_ROOT, env=environment()
        )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
    if not line:
        raise RuntimeError(f"{command} does not start: {_read(log)}")
    return process, line.decode()


def _read(log: Path | None) -> str:
    return "" if log is None else log.read_text(errors="replace")[-4000:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Arena:
    """All that is measured, alive at the same time so that rounds can alternate."""

    #: A server on its defaults, but that one execution may print as much as it likes.
    server: Server
    #: The same without interpreters made ahead.
    poolless: Server
    kernels: Kernels
    bare: grpc.aio.Channel
    #: The base URL of the scripted endpoint, which the server has for models other than `direct`.
    endpoint: str
    #: The part of the full number of repetitions to do, up to 1.
    effort: float

    def times(self, count: int) -> int:
        """How often to do what a full run does ``count`` times."""
        return max(2, round(count * self.effort))


@asynccontextmanager
async def arena(effort: float) -> AsyncIterator[Arena]:
    async with (
        endpoint_process() as endpoint,
        Server({**BULK, "openai.base_url": endpoint}) as server,
        Server({**BULK, "sandbox.pool_size": 0}) as poolless,
        Kernels() as kernels,
        bare_server() as bare,
    ):
        yield Arena(server, poolless, kernels, bare, endpoint, effort)
