"""How long a run of `direct` takes that has one cell to run, on a session that is open, and where the time goes."""

import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from afarensis import v1

from .. import commits
from ..contenders import Arena, Server
from ..floor import ECHO
from ..report import Figure, Ratio, Role, Series, ratio

_CODE = "print(1)"
_TEXT = f"```python\n{_CODE}\n```"
_RUNS = 30
#: Milliseconds that are asked for.
_TARGET = 20.0


async def measure(arena: Arena) -> AsyncIterator[Figure]:
    server = arena.server
    runs = Series("`CreateRunStream` of `direct`, to completed", Role.OURS, "ms")
    polled = Series("`CreateRun`, then `WaitRun`", Role.OURS, "ms")
    executed = Series(f"`Execute` of `{_CODE}` alone", Role.OURS, "ms")
    echoed = Series("bare echo, as many messages", Role.FLOOR, "ms")
    assistant = await server.assistant("direct")
    session = await server.open()
    await server.execute(session, _CODE)
    echo: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = arena.bare.unary_stream(ECHO)
    watch = _Watch(server.data / "afarensis.db")
    for round_number in range(arena.times(6) + 1):
        # A new one for each round: a prompt that grows is another figure.
        thread = await server.thread()
        await _time_run(server, thread, assistant, None)  # opens the session
        seen = None if round_number == 0 else watch
        streamed = [await _time_run(server, thread, assistant, seen) for _ in range(_RUNS)]
        waited = [await _time_wait(server, thread, assistant) for _ in range(_RUNS)]
        alone = await server.time_execute(session, _CODE, _RUNS)
        floor = [await _time_echo(echo, watch.messages or 20) for _ in range(_RUNS)]
        await server.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread))
        if round_number == 0:
            continue
        runs.rounds.append(streamed)
        polled.rounds.append(waited)
        executed.rounds.append(alone)
        echoed.rounds.append(floor)
    await server.close(session)
    yield Figure(
        "Run",
        [runs, polled, executed, echoed],
        [
            Ratio("Run: ms from `CreateRun` to completed", list(map(statistics.median, runs.rounds)), ("<=", _TARGET)),
            ratio("Run: our time over the bare echo's, as many messages", runs, echoed),
        ],
        watch.notes(),
    )


class _Watch:
    """What happened in the runs so far."""

    def __init__(self, database: Path) -> None:
        self.messages = 0
        self.database = database
        self._commits: list[int] = []
        self._pages: list[int] = []
        #: Milliseconds from the call to each event: by its place in the run, since some come more than once.
        self._times: dict[tuple[int, str], list[float]] = defaultdict(list)

    def saw(self, events: list[tuple[float, str]], log: commits.Log | None) -> None:
        self.messages = len(events)
        for place, (milliseconds, name) in enumerate(events):
            self._times[place, name].append(milliseconds)
        if log is not None:
            self._commits.append(log.commits)
            self._pages.append(log.pages)

    def notes(self) -> list[str]:
        usual = [key for key, times in self._times.items() if len(times) > len(self._times[0, _FIRST]) / 2]
        steps = [f"{name} {statistics.median(self._times[place, name]):.1f}" for place, name in sorted(usual)]
        written = f"{statistics.median(self._commits):g} commits of {statistics.median(self._pages):g} pages in all"
        return [
            f"Milliseconds from the call until the client had each event: {', '.join(steps)}.",
            f"A run makes {written}, by the server's write-ahead log.",
        ]


_FIRST = "run.created"


async def _time_run(server: Server, thread: str, assistant: str, watch: _Watch | None) -> float:
    before = None if watch is None else commits.read(watch.database)
    start = time.perf_counter()
    events = [
        ((time.perf_counter() - start) * 1e3, _name(event)) async for event in server.run(thread, assistant, _TEXT)
    ]
    taken = (time.perf_counter() - start) * 1e3
    if watch is not None and before is not None:
        watch.saw(events, commits.read(watch.database).since(before))
    return taken


def _name(event: v1.RunEvent) -> str:
    """An event's type in short: ``run.created``, ``step.delta (started)``."""
    name = v1.RunEventType.Name(event.type).removeprefix("RUN_EVENT_TYPE_THREAD_").lower()
    name = name.replace("run_step_", "step.").replace("run_", "run.").replace("message_", "message.")
    for call in event.run_step_delta.tool_calls:
        code = call.code_interpreter
        if code.HasField("result"):
            return f"{name} (result)"
        if code.outputs:
            return f"{name} (output)"
        return f"{name} (started)" if code.execution_id else f"{name} (code)"
    return name


async def _time_wait(server: Server, thread: str, assistant: str) -> float:
    start = time.perf_counter()
    new = v1.CreateRunRequest(
        thread_id=thread, assistant_id=assistant, additional_messages=[v1.MessageInput(text=_TEXT)]
    )
    created = await server.runs.CreateRun(new)
    waited = await server.runs.WaitRun(v1.WaitRunRequest(run_id=created.run.id))
    assert waited.run.status == v1.RUN_STATUS_COMPLETED, waited
    return (time.perf_counter() - start) * 1e3


async def _time_echo(echo: grpc.aio.UnaryStreamMultiCallable[bytes, bytes], messages: int) -> float:
    start = time.perf_counter()
    async for _ in echo(bytes([messages]) * 64):
        pass
    return (time.perf_counter() - start) * 1e3
