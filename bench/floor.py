"""The floor: a bare grpc.aio server that does nothing but answer, on the event loop that the real one has.

    python -m bench.floor

prints its address and serves until it is ended. ``Echo`` gives a request back as a stream of as many messages as its
first byte says. ``Pump`` sends what comes out of a named pipe, until that ends.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

#: Methods, as a client calls them.
ECHO = "/bench.Floor/Echo"
PUMP = "/bench.Floor/Pump"
#: Bytes that a pipe holds unless told otherwise.
_CHUNK = 64 * 1024


async def _echo(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for _ in range(request[0]):
        yield request


async def _pump(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    descriptor = os.open(request, os.O_RDONLY | os.O_NONBLOCK)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            yield data
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _serve() -> None:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Echo": grpc.unary_stream_rpc_method_handler(_echo),
        "Pump": grpc.unary_stream_rpc_method_handler(_pump),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Floor", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def _main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    _main()
