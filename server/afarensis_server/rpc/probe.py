"""Asks a running server how it is, as health checks of containers and of service managers do."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Unhealthy(Exception):
    """The server does not serve; the message says what was seen."""


async def probe(address: str, timeout_seconds: float) -> None:
    """Ask the health service of the server at ``host:port``. Raises Unhealthy."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unhealthy(f"the server at {address} did not answer within {timeout_seconds:g} s") from error
            raise Unhealthy(f"no server answers at {address} ({error.code().name}: {error.details()})") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise Unhealthy(f"the server at {address} says {status}: it starts or stops")
