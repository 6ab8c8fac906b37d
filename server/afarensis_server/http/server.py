"""The HTTP server: its routes, its start and its end. It shares the process and the event loop with the gRPC one."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from ..assistants.service import Assistants
from ..calls import Calls
from ..files.links import Links
from ..files.service import Files
from ..files.uploads import Uploads
from ..runs.models.registry import Models
from ..runs.service import Runs
from ..sessions.data import SessionData
from ..sessions.service import Sessions
from ..threads.service import Threads
from .endpoint import HttpLimits
from .guard import Guard
from .protocol import protocol
from .routes.assistants import AssistantRoutes
from .routes.containers import ContainerRoutes
from .routes.files import FileRoutes
from .routes.models import ModelRoutes
from .routes.runs import RunRoutes
from .routes.table import Table
from .routes.threads import ThreadRoutes
from .routes.uploads import UploadRoutes

_BACKLOG = 2048
#: Seconds that answers on their way to clients have, once all calls have ended.
_CLOSE_SECONDS = 2


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How the server is reached over HTTP."""

    #: An IP address or a host name, and a port; port 0 takes a free one.
    host: str = "127.0.0.1"
    port: int = 8080
    #: The largest file.
    file_bytes: int = 512 * 1024 * 1024
    #: The largest part of an upload.
    part_bytes: int = 64 * 1024 * 1024
    limits: HttpLimits = HttpLimits()
    #: Seconds that a client may take to send the head of a request.
    head_seconds: float = 30.0
    #: Names by which clients may ask for it, beside those of the loopback interface.
    host_names: tuple[str, ...] = ()
    #: Files of one page of the list of files.
    page_files: int = 10_000
    #: Files of one page of the list of a container's files.
    container_page_files: int = 100
    #: The longest silence of a stream of events.
    heartbeat_seconds: float = 15.0
    #: How soon a client is told to look at a run again.
    poll_ms: int = 250


@dataclass(frozen=True, slots=True)
class HttpNouns:
    """What the routes are thin layers over."""

    assistants: Assistants
    threads: Threads
    files: Files
    links: Links
    uploads: Uploads
    runs: Runs
    models: Models
    sessions: Sessions
    session_data: SessionData


class HttpAddressInUse(Exception):
    """The server cannot listen on its address."""


class HttpServer:
    """Serves the Assistants API. `start`, then `stop`; the calls are ended by whoever shares them."""

    def __init__(self, nouns: HttpNouns, settings: HttpSettings, calls: Calls) -> None:
        self._settings = settings
        self._application = application(nouns, settings, calls)
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen and serve; returns the base URL for clients. Raises HttpAddressInUse."""
        settings = self._settings
        listening = _listen(settings.host, settings.port)
        self._server = _Server(
            uvicorn.Config(
                self._application,
                http=protocol(settings.head_seconds),
                loop="none",
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_CLOSE_SECONDS,
            )
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="http-server")
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{host}:{listening.getsockname()[1]}/v1"

    async def stop(self) -> None:
        """Take no more connections, and end those that are left."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


def application(nouns: HttpNouns, settings: HttpSettings, calls: Calls) -> ASGIApp:
    """All routes as one application."""
    table = Table(calls, settings.limits, Guard(settings.host, settings.host_names))
    AssistantRoutes(nouns.assistants).add(table)
    # Before the threads: `/threads/runs` is no thread called "runs".
    RunRoutes(nouns.runs, heartbeat_seconds=settings.heartbeat_seconds, poll_ms=settings.poll_ms).add(table)
    ThreadRoutes(nouns.threads, nouns.runs).add(table)
    FileRoutes(nouns.files, nouns.links, settings.file_bytes, settings.page_files).add(table)
    ContainerRoutes(
        nouns.sessions, nouns.session_data, nouns.files, settings.file_bytes, settings.container_page_files
    ).add(table)
    UploadRoutes(nouns.uploads, settings.part_bytes).add(table)
    ModelRoutes(nouns.models).add(table)
    return table.router()


class _Server(uvicorn.Server):
    """Without handlers of signals: those are the process's, which has more to end than this."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise HttpAddressInUse(f"{host}:{port}") from error
        raise
    listening.setblocking(False)
    return listening
