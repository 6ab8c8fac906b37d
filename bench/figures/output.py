"""How fast a flood of output comes through."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from ..contenders import IMPORTS, Arena, environment, guest_python
from ..floor import PUMP
from ..report import Figure, Role, Series, ratio

_LINE_BYTES = 80
_FULL_BYTES = 100_000_000


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    lines = max(10_000, int(_FULL_BYTES * min(1.0, arena.effort)) // _LINE_BYTES)
    size = lines * _LINE_BYTES
    code = f"line = 'x' * {_LINE_BYTES - 1}\nfor _ in range({lines}): print(line)"
    ours = Series(f"{size / 1e6:.0f} MB in lines of {_LINE_BYTES} bytes, counted by a client", Role.OURS, "MB/s")
    kernel = Series("ipykernel, the same, counted at iopub", Role.PEER, "MB/s")
    floor = Series("the same from a pipe into a bare stream", Role.FLOOR, "MB/s")
    session = await arena.server.open()
    await arena.server.execute(session, IMPORTS)
    number = (await arena.kernels.ask("open", code=IMPORTS))["kernel"]
    lost = 0
    for _ in range(max(2, arena.times(3))):
        start = time.perf_counter()
        printed = await arena.server.execute(session, code)
        ours.rounds.append([size / 1e6 / (time.perf_counter() - start)])
        assert printed == size, printed
        floor.rounds.append([size / 1e6 / await _pump(arena.bare, code, size)])
        answer = await arena.kernels.ask("execute", kernel=number, code=code, count=1)
        kernel.rounds.append([answer["printed"] / 1e6 / answer["seconds"][0]])
        lost += size - answer["printed"]
    await arena.server.close(session)
    await arena.kernels.ask("close", kernel=number)
    yield Figure(
        "Output",
        [ours, kernel, floor],
        [
            ratio("Output: our rate over ipykernel's", ours, kernel, (">=", 6)),
            ratio("Output: our rate over the bare pipe's", ours, floor, (">=", 0.6)),
        ],
        [f"ipykernel's client did not get {lost:,} of the bytes that were printed."] if lost else [],
    )


async def _pump(channel: grpc.aio.Channel, code: str, size: int) -> float:
    """Seconds for a plain interpreter's prints to come through a pipe and a bare stream."""
    with tempfile.TemporaryDirectory(prefix="afarensis-bench-") as directory:
        pipe = Path(directory, "pipe")
        os.mkfifo(pipe)
        # Opened for both, the open does not wait for a reader.
        end = os.open(pipe, os.O_RDWR)
        pump: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(PUMP)
        try:
            program = f"import sys; sys.stdin.readline()\n{code}"
            writer = await asyncio.create_subprocess_exec(
                guest_python(), "-I", "-c", program, stdin=asyncio.subprocess.PIPE, stdout=end, env=environment()
            )
        finally:
            call = pump(bytes(pipe))
            await asyncio.sleep(0.2)  # the interpreter has started, the pipe has its reader
            os.close(end)
        assert writer.stdin is not None
        start = time.perf_counter()
        writer.stdin.write(b"\n")
        received = 0
        async for data in call:
            received += len(data)
        seconds = time.perf_counter() - start
        await writer.wait()
        assert received == size, received
        return seconds
