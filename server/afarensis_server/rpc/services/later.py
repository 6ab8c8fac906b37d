"""Services of the contract that later versions implement. They say so, instead of leaving clients to guess."""

from afarensis import v1 as pb

from ...errors import Unimplemented
from ..disconnects import Context


class UsageServicer(pb.UsageServiceServicer):
    """Tells what was used."""

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        raise Unimplemented(method="GetUsage")
