"""The floor: a bare grpc.aio server that does nothing but answer, on the event loop that the real one has.

    python -m bench.floor

prints its address and serves until it is ended. What each method does:

- ``Echo`` gives a request back as a stream of as many messages as its first byte says; ``Unary``, once.
- ``Pump`` sends what comes out of a named pipe, until that ends.
- ``Take`` hashes what comes in and writes it to the file that the first message names, on the disk when it answers.
- ``Give`` reads the file that the request names, and sends it.
- ``Relay`` asks an endpoint for a completion, and passes on what comes of it, as it comes: as much as there is.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

#: Methods, as a client calls them.
ECHO = "/bench.Floor/Echo"
UNARY = "/bench.Floor/Unary"
PUMP = "/bench.Floor/Pump"
TAKE = "/bench.Floor/Take"
GIVE = "/bench.Floor/Give"
RELAY = "/bench.Floor/Relay"
#: Bytes that a pipe holds unless told otherwise.
_CHUNK = 64 * 1024
#: Bytes of a message that holds a piece of a file.
FILE_CHUNK = 256 * 1024


async def _echo(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for _ in range(request[0]):
        yield request


async def _unary(request: bytes, _context: Any) -> bytes:
    return request


async def _take(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    digest = hashlib.sha256()
    descriptor = os.open(await anext(requests), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        async for chunk in requests:
            digest.update(chunk)
            os.write(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.digest()


async def _give(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    descriptor = os.open(request, os.O_RDONLY)
    try:
        while chunk := os.read(descriptor, FILE_CHUNK):
            yield chunk
    finally:
        os.close(descriptor)


async def _relay(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    port, _, body = request.partition(b"\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    try:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        while True:
            data = await reader.read(_CHUNK)
            yield data
            if data.endswith(b"0\r\n\r\n"):
                return
    finally:
        writer.close()


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
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Pump": grpc.unary_stream_rpc_method_handler(_pump),
        "Take": grpc.stream_unary_rpc_method_handler(_take),
        "Give": grpc.unary_stream_rpc_method_handler(_give),
        "Relay": grpc.unary_stream_rpc_method_handler(_relay),
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
