"""The gRPC server: its services, its options, its start and its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from afarensis import v1 as pb

from ..assistants.service import Assistants
from ..calls import Calls
from ..events.feed import Feed
from ..files.links import Links
from ..files.service import Files
from ..runs.models.registry import Models
from ..runs.service import Runs
from ..sessions.data import SessionData
from ..sessions.executions import Executions
from ..sessions.service import Sessions
from ..threads.service import Threads
from .health import NOT_SERVING, SERVING, Health
from .interceptor import CallInterceptor
from .services.assistants import AssistantServicer
from .services.events import EventServicer
from .services.files import FileServicer
from .services.later import UsageServicer
from .services.models import ModelServicer
from .services.runs import RunServicer
from .services.sessions import SessionServicer
from .services.threads import ThreadServicer

_log = structlog.get_logger(__name__)

#: The health of the process, and of what needs sandboxes.
PROCESS_HEALTH = ""
RUN_HEALTH = "afarensis.v1.RunService"

_REQUEST_BYTES = 4 * 1024 * 1024
_CONTRACT = (
    pb.assistant_service_pb2,
    pb.event_service_pb2,
    pb.file_service_pb2,
    pb.model_service_pb2,
    pb.run_service_pb2,
    pb.session_service_pb2,
    pb.thread_service_pb2,
    pb.usage_service_pb2,
)

_OPTIONS = (
    # Two servers on one port would each get half of the calls; the second one has to fail instead.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _REQUEST_BYTES),
    # Responses are bounded by the services, not here: a client must be able to get every object that was stored.
    ("grpc.max_send_message_length", -1),
    # Streams may be silent for a heartbeat's interval, and connections idle for hours. A client that is gone without
    # a word is found by these pings; the address translators on the way see traffic.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may ping as often as every 10 s, with or without a call; by default they would be sent away.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class RpcSettings:
    """How the server is reached."""

    #: An IP address or a host name, and a port; port 0 takes a free one.
    host: str = "127.0.0.1"
    port: int = 50051
    #: Whether clients can ask for the contract.
    reflection: bool = True


@dataclass(frozen=True, slots=True)
class Nouns:
    """What the services are thin layers over."""

    assistants: Assistants
    threads: Threads
    files: Files
    links: Links
    runs: Runs
    sessions: Sessions
    executions: Executions
    session_data: SessionData
    models: Models
    feed: Feed


class _Services:
    """Where services are added to a server, as far as that is done with it.

    gRPC would also register each method on its own. It then waits for the next call of each in a future, and goes
    through all of those with every call, which takes longer than to find the method by its name.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """The generic handlers know them, too."""


class AddressInUse(Exception):
    """The server cannot listen on its address."""


class RpcServer:
    """Serves the contract. `start`, then `stop`; nothing is served before and after.

    Other edges may have their calls counted by the same ``calls``: they are refused and ended with these.
    """

    def __init__(self, nouns: Nouns, settings: RpcSettings, calls: Calls) -> None:
        self._settings = settings
        self._calls = calls
        self._health = Health((PROCESS_HEALTH, RUN_HEALTH))
        self._server = grpc.aio.server(interceptors=(CallInterceptor(self._calls),), options=_OPTIONS)
        server = cast(grpc.aio.Server, _Services(self._server))
        pb.add_AssistantServiceServicer_to_server(AssistantServicer(nouns.assistants), server)
        pb.add_ThreadServiceServicer_to_server(ThreadServicer(nouns.threads, nouns.runs), server)
        pb.add_RunServiceServicer_to_server(RunServicer(nouns.runs, self._calls), server)
        pb.add_FileServiceServicer_to_server(FileServicer(nouns.files, nouns.links), server)
        pb.add_SessionServiceServicer_to_server(
            SessionServicer(nouns.sessions, nouns.executions, nouns.session_data), server
        )
        pb.add_ModelServiceServicer_to_server(ModelServicer(nouns.models), server)
        pb.add_UsageServiceServicer_to_server(UsageServicer(), server)
        pb.add_EventServiceServicer_to_server(EventServicer(nouns.feed), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            reflection.enable_server_reflection(service_names(), self._server)  # it asks for the type

    async def start(self) -> str:
        """Listen and serve; returns the address that clients can use. Raises AddressInUse."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        try:
            port = self._server.add_insecure_port(f"{host}:{self._settings.port}")
        except RuntimeError as error:
            raise AddressInUse(f"{host}:{self._settings.port}") from error
        await self._server.start()
        self._health.set(SERVING)
        return f"{host}:{port}"

    def refuse_new(self) -> None:
        """Answer every new call with SHUTTING_DOWN, and health checks with NOT_SERVING. Calls in progress go on."""
        self._health.set(NOT_SERVING)
        if not self._calls.draining:
            _log.info("refusing new calls", in_progress=len(self._calls))
        self._calls.refuse_new()

    async def stop(self, grace_seconds: float) -> None:
        """End all calls, those that do not end in time with SHUTTING_DOWN; return when all have cleaned up."""
        self.refuse_new()
        self._health.end()
        await self._calls.finish(grace_seconds)
        # What is left are answers on their way to their clients.
        await self._server.stop(1.0)


def service_names() -> tuple[str, ...]:
    """The names of all services, as reflection lists them."""
    contract = (name for module in _CONTRACT for name in module.DESCRIPTOR.services_by_name)
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    return (*(f"afarensis.v1.{name}" for name in contract), health, reflection.SERVICE_NAME)
