"""What a client waits for, through the SDK and a real server on this machine: medians and 99th percentiles.

    python -m bench.round_trips

The server is started on its defaults, with a data directory that goes with it. Client and server share the machine.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import afarensis
from afarensis import v1
from examples.local_server import running_server

_MIB = 1024 * 1024
_FILE_MIB = 256
_IMPORTS = "import numpy, pandas, matplotlib.pyplot; print(1)"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "server.log")
        with running_server(None, log, lambda _name, _value: None) as target, afarensis.connect(target) as client:
            sys.stdout.write("| what | median | 99th percentile |\n| --- | --- | --- |\n")
            for name, times in measure(client):
                times.sort()
                low, high = statistics.median(times), times[int(len(times) * 0.99)]
                sys.stdout.write(f"| {name} ({len(times)} times) | {low * 1e3:.2f} ms | {high * 1e3:.2f} ms |\n")
            for name, rate in measure_transfers(client, Path(directory)):
                sys.stdout.write(f"| {name}, {_FILE_MIB} MiB | {rate:.0f} MiB/s | |\n")


def measure(client: afarensis.Client) -> Iterator[tuple[str, list[float]]]:
    assistant = client.assistants.CreateAssistant(
        v1.CreateAssistantRequest(model="direct", tools=[v1.Tool(code_interpreter=v1.CodeInterpreterTool())])
    ).assistant
    thread = client.threads.CreateThread(v1.CreateThreadRequest()).thread
    code = v1.MessageInput(text="```python\nprint(1)\n```")
    new_run = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id, additional_messages=[code])

    def run() -> str:
        with client.create_run_stream(new_run) as events:
            *_, last = events
        assert last.run.status == v1.RUN_STATUS_COMPLETED, last.run.last_error
        return last.run.id

    run_id = run()
    yield "`GetRun`", timed(lambda: client.runs.GetRun(v1.GetRunRequest(run_id=run_id)), 2_000)
    yield (
        "`CreateMessage`, committed",
        timed(lambda: client.threads.CreateMessage(v1.CreateMessageRequest(thread_id=thread.id, text="hello")), 300),
    )
    # On a thread of its own: the prompt of the one above has grown.
    new_run.thread_id = client.threads.CreateThread(v1.CreateThreadRequest()).thread.id
    run()
    yield "a run of `direct`: one `print` on a warm session, to the end of its stream", timed(run, 50)

    def open_session() -> None:
        session = client.sessions.CreateSession(v1.CreateSessionRequest()).session
        execute(client, session.id, _IMPORTS)
        opened.append(session.id)

    opened: list[str] = []
    yield (
        "`CreateSession` and a first `print`, with numpy, pandas and pyplot imported",
        timed(open_session, 50, pause=0.1),
    )
    execute(client, opened[0], "x = 0")
    yield "`Execute` of `x += 1; print(x)` in it", timed(lambda: execute(client, opened[0], "x += 1; print(x)"), 500)


def measure_transfers(client: afarensis.Client, directory: Path) -> Iterator[tuple[str, float]]:
    path = directory / "data.bin"
    path.write_bytes(bytes(range(256)) * (_FILE_MIB * _MIB // 256))
    uploaded: list[str] = []
    (up,) = timed(lambda: uploaded.append(client.upload(path).id), 1)
    yield "upload: hashed twice, written, on the disk", _FILE_MIB / up
    (down,) = timed(lambda: client.download(uploaded[0], directory / "copy.bin"), 1)
    yield "download: hashed and written", _FILE_MIB / down


def execute(client: afarensis.Client, session_id: str, code: str) -> None:
    *_, last = client.sessions.Execute(v1.ExecuteRequest(session_id=session_id, code=code))
    assert last.event.result.status == v1.EXECUTION_STATUS_OK, last


def timed(call: Callable[[], object], count: int, pause: float = 0.0) -> list[float]:
    """Seconds that each of some calls took, one after another; ``pause`` seconds between them."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        time.sleep(pause)
    return times


if __name__ == "__main__":
    main()
