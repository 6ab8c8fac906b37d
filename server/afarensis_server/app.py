"""The composition root: builds every part of the server from its settings, and ends them in reverse.

This is the only module that knows all parts.
"""

import asyncio
import errno
import fcntl
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from . import __version__
from .assistants.service import AssistantLimits, Assistants
from .calls import CallLimits, Calls
from .domain.sessions import SessionLimits
from .endpoints import model_endpoints
from .errors import DatabaseUnavailable, ModelUnknown
from .events.feed import Feed
from .events.kinds import ExecutionLog, RunLog
from .events.retention import Retention
from .files.blobs import DirectoryBlobs
from .files.links import Links, LinkSettings
from .files.service import FileLimits, Files
from .files.uploads import UploadLimits, Uploads
from .http.endpoint import HttpLimits
from .http.server import HttpAddressInUse, HttpNouns, HttpServer, HttpSettings
from .ids import new_id
from .rpc.server import AddressInUse, Nouns, RpcServer, RpcSettings
from .runs.conversation import ConversationLimits
from .runs.engine import EngineSettings, RunEngine
from .runs.fields import RunLimits
from .runs.models.endpoint import EndpointSettings
from .runs.models.registry import Models
from .runs.models.retry import RetrySettings
from .runs.prompt import PromptLimits, Prompts
from .runs.service import Runs
from .sandbox.docker import DockerSandbox, DockerSandboxSettings, InputMode
from .sandbox.driver import SandboxDriver, SandboxUnavailable
from .sandbox.local import CgroupMode, LocalSandbox, LocalSandboxSettings
from .sessions.data import SessionData
from .sessions.executions import Executions
from .sessions.outputs import OutputLimits
from .sessions.service import Sessions
from .sessions.settings import SessionSettings
from .settings import LEAST, Settings
from .store.database import Database
from .threads.service import ThreadLimits, Threads
from .validation import SharedLimits

_log = structlog.get_logger(__name__)

#: Seconds that calls have to end by themselves once runs have been drained.
_CALL_GRACE_SECONDS = 5.0
#: Seconds by which a signal may come later than what it has done to others.
_SIGNAL_SECONDS = 0.2


class Refused(Exception):
    """The server does not start; the message says why and what to do."""


class Misconfigured(Refused):
    """A setting cannot be; the message names it."""


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
    await _check_addresses(settings)
    directory = _prepare(settings.server.data_dir.expanduser())
    stack.enter_context(_lock(directory))
    # Before the gRPC server exists: processes that are forked from one crash.
    try:
        driver = await stack.enter_async_context(open_driver(settings, directory))
    except SandboxUnavailable as error:
        raise Refused(f"No sandbox can be opened: {error}") from error
    database = await _open_database(settings, directory, stack)
    files, links, uploads = await _open_files(settings, directory, database, stack)
    try:
        models = await Models.open(endpoints, stack, settings.runs.default_model, _retry_settings(settings))
        models.check(models.default)
    except ModelUnknown as error:
        raise Refused(str(error)) from error
    log = RunLog(database)
    sessions = await stack.enter_async_context(Sessions(database, files, driver, _session_settings(settings)))
    execution_log = ExecutionLog(database)
    executions = await stack.enter_async_context(Executions(database, execution_log, sessions))
    prompts = Prompts(database, files, sessions, _prompt_limits(settings))
    engine = await stack.enter_async_context(
        RunEngine(database, log, sessions, models, prompts, _engine_settings(settings), owner=_worker_name(directory))
    )
    threads = await _open_threads(settings, database)
    assistants = Assistants(
        database, _assistant_limits(settings), default_model=models.default, check_model=models.check
    )
    runs = Runs(database, log, threads, sessions, engine, _run_limits(settings), models.check)
    await stack.enter_async_context(Retention(database, settings.events.keep_seconds))
    data, feed = SessionData(database, sessions), Feed(database, log)
    nouns = Nouns(assistants, threads, files, links, runs, sessions, executions, data, models, feed)
    calls = Calls(CallLimits(calls=settings.server.max_calls, streams=settings.server.max_streams))
    server = RpcServer(nouns, _rpc_settings(settings), calls)
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
    return HttpServer(nouns, _http_settings(settings), calls) if settings.http.listen else None


async def _listen(server: RpcServer, http: HttpServer | None) -> Addresses:
    try:
        address = await server.start()
        return Addresses(address, "" if http is None else await http.start())
    except AddressInUse as error:
        raise Refused(_TAKEN.format(error, _GRPC)) from error
    except HttpAddressInUse as error:
        raise Refused(_TAKEN.format(error, _HTTP)) from error


def _counted(runs: int, executions: int) -> str:
    """What is at work, in words; empty when nothing is."""
    counts = ((runs, "run"), (executions, "execution"))
    return " and ".join(f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count)


def open_driver(settings: Settings, directory: Path) -> SandboxDriver:
    """The sandbox driver that the settings ask for."""
    if settings.sandbox.driver == "docker":
        return DockerSandbox(_docker_settings(settings, directory))
    section = settings.sandbox
    return LocalSandbox(
        LocalSandboxSettings(
            guest_python=_guest_python(section.guest_python),
            work_directory=directory / "sandbox",
            pool_size=section.pool_size,
            usual_limits=_session_limits(settings),
            max_sessions=section.max_sessions,
            grace_seconds=section.grace_seconds,
            start_seconds=section.start_seconds,
            answer_seconds=section.answer_seconds,
            first_user=section.first_user,
            spawns_per_zygote=section.spawns_per_zygote,
            max_open_files=section.open_files,
            cgroups=CgroupMode(section.cgroups),
            allow_missing_layers=section.allow_missing_layers,
        )
    )


def _docker_settings(settings: Settings, directory: Path) -> DockerSandboxSettings:
    section, engine = settings.sandbox, settings.docker
    return DockerSandboxSettings(
        image=engine.image or f"afarensis-sandbox:{__version__}",
        work_directory=directory / "sandbox",
        host=engine.host,
        certificates=engine.certificates,
        runtime=engine.runtime,
        inputs=InputMode(engine.inputs),
        copy_bytes=engine.copy_bytes,
        overhead_bytes=engine.overhead_bytes,
        input_inodes=engine.input_inodes,
        warm=engine.warm,
        pool_size=section.pool_size,
        usual_limits=_session_limits(settings),
        max_sessions=section.max_sessions,
        grace_seconds=section.grace_seconds,
        start_seconds=section.start_seconds,
        answer_seconds=section.answer_seconds,
        engine_seconds=engine.engine_seconds,
        window_bytes=engine.window_bytes,
        allow_missing_layers=section.allow_missing_layers,
    )


def _guest_python(configured: Path | None) -> Path:
    if configured is not None:
        return configured.expanduser().absolute()
    # server/afarensis_server/app.py: the checkout is two levels above the package.
    path = Path(__file__).parents[2] / ".guest" / "bin" / "python"
    if not path.exists():
        raise Refused(
            "There is no Python for the code that is run. Name one with the packages that code may import in the "
            "setting sandbox.guest_python (AFARENSIS_SANDBOX_GUEST_PYTHON); in a checkout, `make setup` makes one."
        )
    return path


async def _open_database(settings: Settings, directory: Path, stack: AsyncExitStack) -> Database:
    url = settings.store.url or f"sqlite:///{directory / 'afarensis.db'}"
    try:
        return await stack.enter_async_context(Database(url, settings.store.readers))
    except CommandError as error:
        raise Refused(f"The database was made by a newer version of the server: {error}") from error
    except (SQLAlchemyError, DatabaseUnavailable, ValueError) as error:
        # The driver's own words, without SQLAlchemy's around them.
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise Refused(f"The database cannot be opened: {cause}. Its place is the setting store.url.") from error


async def _open_files(
    settings: Settings, directory: Path, database: Database, stack: AsyncExitStack
) -> tuple[Files, Links, Uploads]:
    blobs = DirectoryBlobs(directory / "files")
    files = await stack.enter_async_context(Files(database, blobs, _file_limits(settings)))
    links = Links(database, files, LinkSettings(settings.http.link_seconds, settings.http.max_link_seconds))
    return files, links, await stack.enter_async_context(Uploads(database, files, _upload_limits(settings)))


async def _open_threads(settings: Settings, database: Database) -> Threads:
    threads = Threads(database, _thread_limits(settings))
    await threads.finish_deletions()
    return threads


def _endpoints(settings: Settings) -> list[EndpointSettings]:
    try:
        return model_endpoints(settings)
    except ValueError as error:
        raise Misconfigured(str(error)) from error


def _retry_settings(settings: Settings) -> RetrySettings:
    section = settings.models
    return RetrySettings(
        backoff_seconds=section.backoff_seconds,
        max_backoff_seconds=section.max_backoff_seconds,
        max_retry_after_seconds=section.max_retry_after_seconds,
    )


# --- the address ------------------------------------------------------------------------------------------------------

#: How another address is chosen.
_GRPC = "--listen"
_HTTP = "--http"
_TAKEN = "The address {} is taken by another program. Choose another one with {}."


async def _check_addresses(settings: Settings) -> None:
    for section, flag in ((settings.server, _GRPC), (settings.http, _HTTP)):
        if section.listen and (problem := await address_problem(section.host, section.port, flag)):
            raise Refused(problem)


async def address_problem(host: str, port: int, flag: str = _GRPC) -> str:
    """Why nothing can listen on an address; empty when something can. Nothing is left listening."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"The address {shown} cannot be found: {error.strerror}. Choose another one with {flag}."
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as attempt:
                # As gRPC does: connections of a server that has just ended do not hold the address.
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                attempt.bind(address)
        except OSError as error:
            problem = error
        else:
            # A host may have several addresses; one is enough.
            return ""
    if problem is None or problem.errno == errno.EADDRINUSE:
        return _TAKEN.format(shown, flag)
    return f"Nothing can listen on the address {shown}: {problem.strerror}. Choose another one with {flag}."


# --- the data directory -----------------------------------------------------------------------------------------------


def _prepare(directory: Path) -> Path:
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"The data directory {directory} cannot be made: {error.strerror}.") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused(f"The data directory {directory} is not writable.")
    if directory.stat().st_mode & 0o077:
        # Sessions' files in it are open to any user who gets this far. A directory of something else stays as it is.
        if any(directory.iterdir()) and not (directory / "lock").exists():
            raise Refused(f"The data directory {directory} is open to other users. Close it: chmod 700 {directory}")
        directory.chmod(0o700)
    return directory


def _worker_name(directory: Path) -> str:
    """Names whoever holds this data directory, in leases: the same after each start, and of no other server."""
    path = directory / "worker"
    if not path.exists():
        # Whole or not at all: half a name would leave the leases of this start to their time.
        written = directory / "worker.new"
        written.write_text(new_id("worker_"))
        written.replace(path)
    return path.read_text()


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Hold the data directory. The kernel lets go of it when the process ends, however it does."""
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(
                f"The data directory {directory} is in use by another server (pid {file.read().strip() or 'unknown'}). "
                "Stop that one, or choose another directory with --data-dir."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


# --- what each part is told -------------------------------------------------------------------------------------------


def _rpc_settings(settings: Settings) -> RpcSettings:
    section = settings.server
    return RpcSettings(
        host=section.host,
        port=section.port,
        reflection=section.reflection,
    )


def _http_settings(settings: Settings) -> HttpSettings:
    section = settings.http
    return HttpSettings(
        host=section.host,
        port=section.port,
        file_bytes=settings.files.max_bytes,
        part_bytes=settings.files.part_bytes,
        limits=HttpLimits(body_bytes=section.body_bytes, body_seconds=section.body_seconds),
        host_names=tuple(name.strip() for name in section.host_names.split(",") if name.strip()),
        heartbeat_seconds=section.heartbeat_seconds,
        poll_ms=section.poll_ms,
    )


def _shared_limits(settings: Settings) -> SharedLimits:
    section = settings.limits
    return SharedLimits(
        metadata_pairs=section.metadata_pairs,
        metadata_key_characters=section.metadata_key_characters,
        metadata_value_characters=section.metadata_value_characters,
        function_name_characters=section.function_name_characters,
        temperature=section.temperature,
        execution_seconds=settings.sandbox.max_execution_seconds,
    )


def _assistant_limits(settings: Settings) -> AssistantLimits:
    section = settings.limits
    return AssistantLimits(
        name_characters=section.name_characters,
        description_characters=section.description_characters,
        instructions_characters=section.instructions_characters,
        tools=section.assistant_tools,
        code_interpreter_files=section.assistant_files,
        shared=_shared_limits(settings),
    )


def _thread_limits(settings: Settings) -> ThreadLimits:
    section = settings.limits
    return ThreadLimits(
        messages=section.thread_messages,
        initial_messages=section.messages_per_call,
        text_characters=section.message_characters,
        content_parts=section.message_parts,
        attachments=section.message_attachments,
        code_interpreter_files=section.thread_files,
        image_url_characters=section.image_url_characters,
        image_bytes=section.image_bytes,
        shared=_shared_limits(settings),
    )


def _file_limits(settings: Settings) -> FileLimits:
    section = settings.files
    return FileLimits(
        file_bytes=section.max_bytes,
        minimum_ttl_seconds=section.min_ttl_seconds,
        maximum_ttl_seconds=section.max_ttl_seconds,
        shared=_shared_limits(settings),
    )


def _upload_limits(settings: Settings) -> UploadLimits:
    section = settings.files
    return UploadLimits(
        part_bytes=section.part_bytes,
        parts=section.upload_parts,
        seconds=section.upload_seconds,
        shared=_shared_limits(settings),
    )


def _run_limits(settings: Settings) -> RunLimits:
    return RunLimits(
        instructions_characters=settings.limits.instructions_characters,
        tools=settings.limits.run_tools,
        minimum_tokens=settings.limits.minimum_tokens,
        additional_messages=settings.limits.messages_per_call,
        ttl_seconds=settings.runs.ttl_seconds,
        max_ttl_seconds=settings.runs.max_ttl_seconds,
        per_project=settings.runs.per_project,
        tool_output_characters=settings.limits.tool_output_characters,
        shared=_shared_limits(settings),
    )


def _prompt_limits(settings: Settings) -> PromptLimits:
    section = settings.runs
    return PromptLimits(
        history_tokens=section.history_tokens,
        output_characters=section.prompt_output_characters,
        tool_turns=section.prompt_tool_turns,
        tool_turn_characters=section.prompt_tool_turn_characters,
        files=section.prompt_files,
        images=section.prompt_images,
        image_bytes=section.prompt_image_bytes,
        images_bytes=section.prompt_images_bytes,
        cache_bytes=section.prompt_cache_bytes,
    )


def _engine_settings(settings: Settings) -> EngineSettings:
    section = settings.runs
    return EngineSettings(
        concurrent_runs=section.concurrent,
        lease_seconds=section.lease_seconds,
        cancel_grace_seconds=section.cancel_grace_seconds,
        conversation=ConversationLimits(model_calls=section.model_calls),
    )


def _session_limits(settings: Settings) -> SessionLimits:
    """What a session may use whose creator does not say."""
    section = settings.sandbox
    return SessionLimits(
        memory_bytes=section.memory_bytes,
        cpu_cores=section.cpu_cores,
        processes=section.processes,
        open_files=section.open_files,
        disk_bytes=section.disk_bytes,
        disk_inodes=section.disk_inodes,
        output_bytes=section.output_bytes,
        display_bytes=section.display_bytes,
    )


def _session_settings(settings: Settings) -> SessionSettings:
    section = settings.sandbox
    return SessionSettings(
        limits=_session_limits(settings),
        least=SessionLimits(**LEAST, output_bytes=1, display_bytes=1),
        outputs=OutputLimits(
            inline_bytes=section.inline_display_bytes,
            files=section.kept_files,
            bytes=section.kept_bytes,
            seconds=section.keep_seconds,
        ),
        idle_seconds=section.idle_seconds,
        life_seconds=section.life_seconds,
        max_life_seconds=section.max_life_seconds,
        execution_seconds=section.execution_seconds,
        max_execution_seconds=section.max_execution_seconds,
    )


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
