"""Tells a client that went away from everything else.

gRPC cancels the task of a call whose client is gone, but the call's own operations notice first: a send fails with an
internal error, and a stream of requests that was broken off ends just like one that is complete. Both are turned into
the cancellation that is on its way, so that cleaning up is not interrupted by it half-way.
"""

import asyncio
from contextlib import suppress
from typing import Any, NoReturn

import grpc

Context = grpc.aio.ServicerContext[Any, Any]

#: Far longer than the cancellation takes.
_PATIENCE_SECONDS = 10.0


async def send(context: Context, response: object) -> None:
    """Send a response; waits until the client takes it."""
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:
        await _until_cancelled(error)


async def confirm_that_requests_are_complete(context: Context) -> None:
    """Return only if the client is still there, once its stream of requests has ended."""
    try:
        # The one operation that fails on a broken call and does nothing to a sound one.
        await context.send_initial_metadata(())
    except grpc.aio.InternalError as error:
        await _until_cancelled(error)


async def _until_cancelled(error: Exception) -> NoReturn:
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asyncio.Event().wait()
    raise error
