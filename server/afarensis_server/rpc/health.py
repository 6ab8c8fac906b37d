"""The standard health service: ``""`` is the process, a service's name says whether that service works."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..errors import ShuttingDown
from .disconnects import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """Knows what serves.

    Used in place of the package's own servicer, in which the first watcher that leaves takes the others of the same
    service with it.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        self._statuses: Mapping[str, int] = dict.fromkeys(services, NOT_SERVING)
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, status: int, *services: str) -> None:
        """Set the status of some services, or of all when none is named."""
        self._statuses = {**self._statuses, **dict.fromkeys(services or self._statuses, status)}
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Send away those who watch: nothing will change any more."""
        self._ended = True
        self.set(NOT_SERVING)

    async def Check(  # noqa: N802  # gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service '{request.service[:200]}'.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802  # gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            if self._ended:
                raise ShuttingDown
            await changed.wait()
