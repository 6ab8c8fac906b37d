"""Services of the contract that later versions implement. They say so, instead of leaving clients to guess."""

from collections.abc import AsyncIterator
from typing import Any

from afarensis import v1 as pb

from ...errors import Unimplemented
from ..disconnects import Context


async def not_yet(method: str) -> AsyncIterator[Any]:
    """A stream that only says that it is not there yet."""
    nothing: tuple[Any, ...] = ()
    for response in nothing:
        yield response
    raise Unimplemented(method=method)


class UsageServicer(pb.UsageServiceServicer):
    """Tells what was used."""

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        raise Unimplemented(method="GetUsage")


class EventServicer(pb.EventServiceServicer):
    """Gives everything that happens in a project as one feed."""

    def StreamEvents(self, request: pb.StreamEventsRequest, context: Context) -> AsyncIterator[pb.StreamEventsResponse]:
        return not_yet("StreamEvents")

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        raise Unimplemented(method="ListEvents")
