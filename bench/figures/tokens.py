"""What is added to a token's way when 200 runs stream at once, each at 100 tokens a second."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc

from afarensis import v1

from .. import processes
from ..contenders import Arena, Server
from ..floor import RELAY
from ..report import Figure, Ratio, Role, Series

_RUNS = 200
_PER_SECOND = 100
_SECONDS = 6
#: Runs at once where the machine is far from full.
_FEW = 20
#: Milliseconds that are asked for, at the 99th percentile.
_TARGET = 100.0


@dataclass(slots=True)
class _Stream:
    """What one reader received."""

    #: When each token left the endpoint, in nanoseconds of the monotonic clock, and the milliseconds from its kernel to
    #: the reader.
    left: list[int] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    messages: int = 0
    ended: int = 0

    def take(self, text: str, received: int) -> None:
        self.messages += 1
        for token in text.split():
            number, _, stamp = token.partition(":")
            self.numbers.append(int(number))
            self.left.append(int(stamp))
            self.added.append((received - int(stamp)) / 1e6)
            self.ended = received

    @property
    def began(self) -> int:
        return self.left[0]


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    tokens = max(_PER_SECOND, int(_SECONDS * _PER_SECOND * min(1.0, arena.effort)))
    server = arena.server
    sizes = (_RUNS, _FEW)
    ours = {runs: Series(f"added to a token, {runs} runs at once", Role.OURS, "ms") for runs in sizes}
    beginning = Series(f"the same, with the second in which the {_RUNS} begin and end", Role.OURS, "ms")
    floor = {runs: Series(f"the same by a bare relay, {runs} at once", Role.FLOOR, "ms") for runs in sizes}
    assistant = await server.assistant("scripted", code=False)
    notes: dict[int, str] = {}
    for round_number in range(arena.times(3) + 1):
        for runs in sizes:
            threads = [await server.thread() for _ in range(runs)]
            before = processes.cpu(server.pid)
            streams = await _together(runs, lambda number: _run(server, threads[number], assistant, tokens))  # noqa: B023
            spent = processes.cpu(server.pid) - before
            relayed = await _together(runs, lambda _: _relay(arena, tokens))
            for thread in threads:
                await server.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread))
            if round_number == 0:
                continue
            ours[runs].rounds.append(_added(streams))
            floor[runs].rounds.append(_added(relayed))
            if runs == _RUNS:
                beginning.rounds.append([added for stream in streams for added in stream.added])
            notes[runs] = _note(runs, streams, spent)
    yield Figure(
        "Tokens",
        [ours[_RUNS], beginning, floor[_RUNS], ours[_FEW], floor[_FEW]],
        [
            Ratio(
                f"Tokens: ms added at the 99th percentile while {_RUNS} runs stream at {_PER_SECOND}/s",
                [_p99(values) for values in ours[_RUNS].rounds],
                ("<=", _TARGET),
            ),
            Ratio(
                f"Tokens: the same, with the second in which the {_RUNS} begin, and end",
                [_p99(values) for values in beginning.rounds],
            ),
            Ratio(f"Tokens: the same, {_FEW} runs", [_p99(values) for values in ours[_FEW].rounds]),
        ],
        list(notes.values()),
    )


async def _together(count: int, read: Callable[[int], Awaitable[_Stream]]) -> list[_Stream]:
    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(_started(read, number)) for number in range(count)]
    return [task.result() for task in reading]


async def _started(read: Callable[[int], Awaitable[_Stream]], number: int) -> _Stream:
    # Spread over a second, as runs are, and not all within one moment.
    await asyncio.sleep(number % _PER_SECOND / _PER_SECOND)
    return await read(number)


async def _run(server: Server, thread: str, assistant: str, tokens: int) -> _Stream:
    """One run: every token has to come, in order, in the stream and in the message that is stored."""
    stream, said, stored = _Stream(), "", ""
    async for event in server.run(thread, assistant, _script(tokens)):
        received = time.monotonic_ns()
        if event.HasField("message_delta"):
            text = "".join(part.text.value for part in event.message_delta.content)
            stream.take(text, received)
            said += text
        elif event.type == v1.RUN_EVENT_TYPE_THREAD_MESSAGE_COMPLETED:
            stored = "".join(part.text.value for part in event.message.content)
    assert stream.numbers == list(range(tokens)), f"{len(stream.numbers)} of {tokens} tokens came"
    assert said == stored, "the stored message differs from its deltas"
    return stream


async def _relay(arena: Arena, tokens: int) -> _Stream:
    relay: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = arena.bare.unary_stream(RELAY)
    body = json.dumps({"messages": [{"role": "user", "content": _script(tokens)}]})
    stream, rest = _Stream(), b""
    async for data in relay(f"{urlsplit(arena.endpoint).port}\n{body}".encode()):
        received = time.monotonic_ns()
        # Whole events only: what comes behind the last one goes before the next piece.
        whole, end, rest = (rest + data).rpartition(b"\n\n")
        if text := "".join(_contents(whole + end)):
            stream.take(text, received)
    assert stream.numbers == list(range(tokens)), f"{len(stream.numbers)} of {tokens} tokens came"
    return stream


def _contents(events: bytes) -> Iterator[str]:
    for line in events.split(b"\n"):
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])["choices"][0]["delta"].get("content", "")


def _script(tokens: int) -> str:
    return json.dumps({"tokens": tokens, "per_second": _PER_SECOND})


def _added(streams: list[_Stream]) -> list[float]:
    """The delay of each token that left while all of them were under way."""
    first, last = max(stream.left[0] for stream in streams), min(stream.left[-1] for stream in streams)
    return [
        added
        for stream in streams
        for left, added in zip(stream.left, stream.added, strict=True)
        if first <= left <= last
    ]


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _note(runs: int, streams: list[_Stream], spent: processes.Cpu) -> str:
    tokens = sum(len(stream.numbers) for stream in streams)
    messages = sum(stream.messages for stream in streams)
    rate = statistics.median(len(stream.numbers) / (stream.ended - stream.began) * 1e9 for stream in streams)
    cpu = (spent.user + spent.system) * 1e6
    each = f"{cpu / tokens:.0f} µs of processor time for a token, {cpu / messages:.0f} µs for an event"
    return (
        f"With {runs} runs at once, {tokens:,} tokens came in {messages:,} events, none lost, {rate:.0f} a second in "
        f"each run; the server used {each}."
    )
