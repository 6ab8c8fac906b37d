"""The composition root: builds every part of the server from its settings, and ends them in reverse.

This is the only module that knows all parts. What each is told is in `parts`, what they need of the machine is taken in
`claims`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from . import __version__, claims, collector, parts
from .assistants.service import Assistants
from .calls import CallLimits, Calls
from .endpoints import model_endpoints
from .errors import DatabaseUnavailable, ModelUnknown
from .events.feed import Feed
from .events.kinds import ExecutionLog, RunLog
from .events.retention import Retention
from .files.blobs import DirectoryBlobs
from .files.links import Links
from .files.service import Files
from .files.uploads import Uploads
from .http.server import HttpAddressInUse, HttpNouns, HttpServer
from .refused import Misconfigured, Refused
from .rpc.server import AddressInUse, Nouns, RpcServer
from .runs.engine import RunEngine
from .runs.models.endpoint import EndpointSettings
from .runs.models.registry import Models
from .runs.prompt import Prompts
from .runs.service import Runs
from .sandbox.driver import SandboxDriver, SandboxUnavailable
from .sandbox.local import LocalSandbox
from .sessions.data import SessionData
from .sessions.executions import Executions
from .sessions.service import Sessions
from .settings import Settings
from .store.database import Database
from .store.migrations import DatabaseTooNew
from .threads.service import Threads

_log = structlog.get_logger(__name__)

#: Seconds that calls have to end by themselves once runs have been drained.
_CALL_GRACE_SECONDS = 5.0
#: Seconds by which a signal may come later than what it has done to others.
_SIGNAL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the server is reached: gRPC at ``host:port``, and HTTP at a base URL, which is empty where it is off."""

    grpc: str
    http: str = ""


async def serve(settings: Settings, announce: Callable[[Addresses], None], tell: Callable[[str], None]) -> None:
    """Serve until a signal ends it. Raises Refused.

    Args:
        settings: everything that can be set.
        announce: gets the addresses once calls are answered.
        tell: gets what a person at the terminal should know while the server ends.
    """
    stop = _stop_on_signals()
    try:
        async with AsyncExitStack() as stack:
            async with _given_up_on(stop):
                addresses = await start(settings, stack, tell)
            collector.begin()
            announce(addresses)
            await stop.wait()
    except _GivenUp:
        _log.info("stopped before it served")
    else:
        _log.info("stopped")


async def start(settings: Settings, stack: AsyncExitStack, tell: Callable[[str], None]) -> Addresses:
    """Start every part on the stack and return where it is served. Leaving the stack drains. Raises Refused."""
    endpoints = _endpoints(settings)
    # Before the sandbox starts, which takes a while. Who takes an address meanwhile is met below.
    await claims.check_addresses(settings)
    directory = claims.prepare(settings.server.data_dir.expanduser())
    stack.enter_context(claims.lock(directory))
    # Before the gRPC server exists: processes that are forked from one crash.
    try:
        driver = await stack.enter_async_context(open_driver(settings, directory))
    except SandboxUnavailable as error:
        raise Refused(f"No sandbox can be opened: {error}") from error
    database = await _open_database(settings, directory, stack)
    files, links, uploads = await _open_files(settings, directory, database, stack)
    models = await _open_models(settings, endpoints, stack)
    log = RunLog(database)
    owner = claims.worker_name(directory)
    sessions = await stack.enter_async_context(
        Sessions(database, files, driver, parts.session_settings(settings), owner)
    )
    execution_log = ExecutionLog(database)
    executions = await stack.enter_async_context(Executions(database, execution_log, sessions))
    prompts = Prompts(database, files, sessions, parts.prompt_limits(settings))
    engine = await stack.enter_async_context(
        RunEngine(database, log, sessions, models, prompts, parts.engine_settings(settings), owner=owner)
    )
    threads = await _open_threads(settings, database)
    assistants = Assistants(
        database, parts.assistant_limits(settings), default_model=models.default, check_model=models.check
    )
    runs = Runs(database, log, threads, sessions, engine, parts.run_limits(settings), models.check)
    await stack.enter_async_context(Retention(database, settings.events.keep_seconds))
    data, feed = SessionData(database, sessions), Feed(database, log)
    nouns = Nouns(assistants, threads, files, links, runs, sessions, executions, data, models, feed)
    calls = Calls(CallLimits(calls=settings.server.max_calls, streams=settings.server.max_streams))
    server = RpcServer(nouns, parts.rpc_settings(settings), calls)
    http = _http_server(
        settings, HttpNouns(assistants, threads, files, links, uploads, runs, models, sessions, data), calls
    )

    async def drain() -> None:
        # Streams stay open while runs and executions finish, so that their readers see how.
        server.refuse_new()
        seconds = settings.server.drain_seconds
        _log.info("draining", seconds=seconds, runs=engine.at_work, executions=executions.at_work)
        if waiting := _counted(engine.at_work, executions.at_work):
            tell(f"Waiting up to {seconds:g} s for {waiting} to finish; Ctrl-C again ends at once.")
        try:
            await asyncio.gather(engine.drain(seconds), executions.drain(seconds))
        finally:
            # Whatever went wrong there, readers are told, and calls end.
            log.drain()
            execution_log.drain()
            await server.stop(_CALL_GRACE_SECONDS)

    if http is not None:
        # Behind the calls: all that is left of them then are answers on their way.
        stack.push_async_callback(http.stop)
    addresses = await _listen(server, http)
    links.base_url = settings.http.public_url.rstrip("/") or addresses.http
    stack.push_async_callback(drain)
    _log.info(
        "serving",
        address=addresses.grpc,
        http=addresses.http,
        version=__version__,
        data_dir=str(directory),
        sandbox=driver.name,
    )
    return addresses


def _http_server(settings: Settings, nouns: HttpNouns, calls: Calls) -> HttpServer | None:
    """The server over HTTP, if there is to be one."""
    return HttpServer(nouns, parts.http_settings(settings), calls) if settings.http.listen else None


async def _listen(server: RpcServer, http: HttpServer | None) -> Addresses:
    try:
        address = await server.start()
        return Addresses(address, "" if http is None else await http.start())
    except AddressInUse as error:
        raise Refused(claims.TAKEN.format(error, claims.GRPC_FLAG)) from error
    except HttpAddressInUse as error:
        raise Refused(claims.TAKEN.format(error, claims.HTTP_FLAG)) from error


def _counted(runs: int, executions: int) -> str:
    """What is at work, in words; empty when nothing is."""
    counts = ((runs, "run"), (executions, "execution"))
    return " and ".join(f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count)


def open_driver(settings: Settings, directory: Path) -> SandboxDriver:
    """The sandbox driver that the settings ask for."""
    if settings.sandbox.driver == "docker":
        from .sandbox.docker.driver import DockerSandbox  # noqa: PLC0415 - with the engine's SDK, which others do not need

        return DockerSandbox(parts.docker_settings(settings, directory))
    return LocalSandbox(parts.local_settings(settings, directory))


async def _open_database(settings: Settings, directory: Path, stack: AsyncExitStack) -> Database:
    url = settings.store.url or f"sqlite:///{directory / 'afarensis.db'}"
    try:
        return await stack.enter_async_context(Database(url, settings.store.readers))
    except DatabaseTooNew as error:
        raise Refused(str(error)) from error
    except (SQLAlchemyError, DatabaseUnavailable, ValueError) as error:
        # The driver's own words, without SQLAlchemy's around them.
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise Refused(f"The database cannot be opened: {cause}. Its place is the setting store.url.") from error


async def _open_files(
    settings: Settings, directory: Path, database: Database, stack: AsyncExitStack
) -> tuple[Files, Links, Uploads]:
    blobs = DirectoryBlobs(directory / "files")
    files = await stack.enter_async_context(Files(database, blobs, parts.file_limits(settings)))
    links = Links(database, files, parts.link_settings(settings))
    return files, links, await stack.enter_async_context(Uploads(database, files, parts.upload_limits(settings)))


def _endpoints(settings: Settings) -> list[EndpointSettings]:
    try:
        return model_endpoints(settings)
    except ValueError as error:
        raise Misconfigured(str(error)) from error


async def _open_models(settings: Settings, endpoints: list[EndpointSettings], stack: AsyncExitStack) -> Models:
    try:
        models = await Models.open(endpoints, stack, settings.runs.default_model, parts.retry_settings(settings))
        models.check(models.default)
    except ModelUnknown as error:
        raise Refused(str(error)) from error
    return models


async def _open_threads(settings: Settings, database: Database) -> Threads:
    threads = Threads(database, parts.thread_limits(settings))
    await threads.finish_deletions()
    return threads


# --- signals ----------------------------------------------------------------------------------------------------------


class _GivenUp(Exception):
    """A signal came before the server served."""


@asynccontextmanager
async def _given_up_on(stop: asyncio.Event) -> AsyncIterator[None]:
    """End the work within when the event is set, and raise _GivenUp, whatever the signal has made of the work."""
    task = asyncio.current_task()
    assert task is not None
    cancelled = False

    async def watch() -> None:
        nonlocal cancelled
        await stop.wait()
        cancelled = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if cancelled and task.uncancel() == 0:
            raise _GivenUp from None
        raise
    except Refused as error:
        # A signal to the whole group also ends what the server has started; that is not why it ends. Which of the two
        # is heard of first is open.
        with suppress(TimeoutError):
            async with asyncio.timeout(_SIGNAL_SECONDS):
                await stop.wait()
        if stop.is_set():
            raise _GivenUp from error
        raise
    finally:
        watching.cancel()
    if cancelled:
        # It came with the end of the work: the cancellation is still on its way.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
        raise _GivenUp


def _stop_on_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            # Nothing is lost: what was answered is stored, and runs at work are taken up at the next start.
            sys.stderr.flush()
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop
