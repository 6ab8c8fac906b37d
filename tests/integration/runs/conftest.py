"""The run engine on a real database, with a scripted model endpoint over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from afarensis_server.assistants.service import AssistantLimits, Assistants
from afarensis_server.domain.assistants import Assistant
from afarensis_server.domain.events import RunEvent
from afarensis_server.domain.runs import Run
from afarensis_server.domain.sessions import SessionLimits
from afarensis_server.domain.threads import Thread
from afarensis_server.domain.tools import FunctionTool, Tool
from afarensis_server.events.kinds import RunLog
from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files
from afarensis_server.runs.engine import EngineSettings, RunEngine
from afarensis_server.runs.fields import RunFields, RunLimits
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.registry import Models
from afarensis_server.runs.prompt import PromptLimits, Prompts
from afarensis_server.runs.service import Runs
from afarensis_server.sandbox.driver import Layer, SandboxDriver, SandboxSession, SandboxUnavailable, SessionSpec
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from afarensis_server.sessions.service import Sessions
from afarensis_server.sessions.settings import SessionSettings
from afarensis_server.store.database import Database
from afarensis_server.threads.fields import ThreadLimits
from afarensis_server.threads.service import Threads
from tests.support.sandbox import LIMITS, guest_python
from tests.support.scripted_model import Request, ScriptedModel, Turn

PROJECT = "default"
_USUAL = EngineSettings()
_PROMPT = PromptLimits()

LOOKUP = FunctionTool("lookup", "Looks a word up.", '{"type":"object","properties":{"word":{"type":"string"}}}')


class NoSandbox:
    """A host without a sandbox: what runs do without one, and what they say when they need one."""

    name = "none"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def open(self, spec: SessionSpec) -> SandboxSession:
        raise SandboxUnavailable("this test has none")

    async def layers(self) -> list[Layer]:
        return []


@dataclass(slots=True)
class House:
    """All that a run needs, built as the server builds it."""

    database: Database
    log: RunLog
    assistants: Assistants
    threads: Threads
    sessions: Sessions
    engine: RunEngine
    runs: Runs
    endpoint: ScriptedModel
    files: Files
    prompts: Prompts

    async def thread(self, text: str = "Hello") -> Thread:
        return await self.threads.create(PROJECT, {}, [{"text": text}])

    async def assistant(self, *tools: Tool) -> Assistant:
        return await self.assistants.create(PROJECT, {"model": "scripted", "tools": tools})

    async def run(self, *tools: Tool, **fields: object) -> Run:
        """A new thread and a run on it."""
        thread, assistant = await self.thread(), await self.assistant(*tools)
        wanted: RunFields = {"assistant_id": assistant.id, **fields}  # type: ignore[typeddict-item]
        return await self.runs.create(PROJECT, thread.id, wanted)

    async def events(self, run: Run, after: int = 0) -> list[RunEvent]:
        """All events until the run is over."""
        return [
            item async for item in self.runs.follow_events(PROJECT, run.id, after, 60.0) if isinstance(item, RunEvent)
        ]

    async def settled(self, run: Run) -> Run:
        return await self.runs.wait(PROJECT, run.id, 20.0)


Build = Callable[["Script"], Awaitable[House]]
Script = Sequence[Turn] | Callable[[Request], Turn]


@asynccontextmanager
async def build(
    database: Database,
    directory: Path,
    endpoint: ScriptedModel,
    settings: EngineSettings = _USUAL,
    driver: SandboxDriver | None = None,
    owner: str = "worker_1",
    run_limits: RunLimits = RunLimits(),  # noqa: B008 - frozen
    limits: SessionLimits = SessionLimits(1 << 28, 1.0, 32, 64, 1 << 20, 100, 1 << 20, 1 << 20),  # noqa: B008 - frozen
    prompt: PromptLimits = _PROMPT,
) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        files = Files(database, DirectoryBlobs(directory / "blobs"), FileLimits())
        log = RunLog(database)
        sessions = await stack.enter_async_context(
            Sessions(database, files, driver or NoSandbox(), SessionSettings(limits=limits), owner)
        )
        models = await Models.open(
            [EndpointSettings(base_url=endpoint.base_url, max_retries=0, timeout_seconds=10.0)], stack
        )
        prompts = Prompts(database, files, sessions, prompt)
        engine = await stack.enter_async_context(RunEngine(database, log, sessions, models, prompts, settings, owner))
        threads = Threads(database, ThreadLimits())
        yield House(
            database,
            log,
            Assistants(database, AssistantLimits(), default_model="scripted", check_model=models.check),
            threads,
            sessions,
            engine,
            Runs(database, log, threads, sessions, engine, run_limits, models.check),
            endpoint,
            files,
            prompts,
        )


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[Build]:
    """Builds the house around a script of the model's answers."""
    async with AsyncExitStack() as stack:

        async def make(script: Script) -> House:
            endpoint = await stack.enter_async_context(ScriptedModel(script))
            return await stack.enter_async_context(build(database, tmp_path, endpoint))

        yield make


@pytest.fixture
async def house_with_sandbox(database: Database, tmp_path: Path) -> AsyncIterator[Build]:
    """The same with a real sandbox."""
    settings = LocalSandboxSettings(guest_python=guest_python(), work_directory=tmp_path / "sandbox", pool_size=1)
    async with LocalSandbox(settings) as driver, AsyncExitStack() as stack:

        async def make(script: Script) -> House:
            endpoint = await stack.enter_async_context(ScriptedModel(script))
            return await stack.enter_async_context(build(database, tmp_path, endpoint, driver=driver, limits=LIMITS))

        yield make
