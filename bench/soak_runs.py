"""Uses a server in every way for a while, and looks for what grows: ``python -m bench.soak --minutes 10``.

Runs of `direct` and of a scripted endpoint that end by themselves, are cancelled, expire, are followed by several
readers of whom some leave, and whose threads are deleted under them; sessions; files that come, are attached, and go.
After each tenth of the time everything that was made is deleted, and what there is then is counted: rows (but for those
that are kept on purpose), descriptors, threads, processes, memory, the write-ahead log.
"""

import asyncio
import json
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from afarensis import v1

from . import processes
from .contenders import Server, endpoint_process

_PARTS = 10
#: What goes on at the same time.
_TOGETHER = 8
#: Runs and other uses of a thread before it is deleted.
_THREAD_USES = 8
_FILE_BYTES = 200_000
#: Seconds until what is ended in the background must be gone.
_SETTLE_SECONDS = 30.0
_MIB = 2**20
#: Bytes by which the server's memory may grow after the first part.
_MEMORY_SLACK = 16 * _MIB
#: By how much a count may be higher: connections to the endpoint are kept for a while, and asyncio's pool of threads
#: grows to its size when many are wanted at once.
_SLACK = {"processes": 0, "descriptors": 8, "threads": min(32, (os.cpu_count() or 1) + 4)}
#: A burst makes the log as long as this, and no longer.
_LOG_BYTES = 72 * _MIB
#: Rows that stay: what sessions used is accounted for after they are gone.
_KEPT = frozenset({"sessions", "executions", "execution_logs", "execution_events", "requests", "sqlite_sequence"})
_LOOP = "```python\nwhile True: pass\n```"
_PRINT = "```python\nopen('out.txt', 'w').write('x' * 1000); print(1)\n```"


@dataclass(frozen=True, slots=True)
class Sample:
    """What there is while nothing goes on."""

    processes: int
    descriptors: int
    threads: int
    rows: dict[str, int]
    log_bytes: int
    memory_bytes: int
    stored_bytes: int


@dataclass(slots=True)
class Soak:
    """The uses of one server."""

    server: Server
    #: Assistants of `direct` and of the endpoint.
    direct: str
    scripted: str
    random: random.Random
    done: Counter[str] = field(default_factory=Counter)

    async def work(self, seconds: float) -> None:
        """Use the server for so long, then delete what was made."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_TOGETHER):
                tasks.create_task(self._use_until(end))

    async def _use_until(self, end: float) -> None:
        uses: list[Callable[[str], Awaitable[None]]] = [
            self.run_code,
            self.run_words,
            self.call_code,
            self.cancel_words,
            self.cancel_code,
            self.expire,
            self.follow,
            self.use_session,
            self.use_files,
        ]
        while time.monotonic() < end:
            thread = await self.server.thread()
            for use in self.random.choices(uses, k=_THREAD_USES):
                await use(thread)
                self.done[use.__name__] += 1
                if time.monotonic() >= end:
                    break
            if self.random.random() < 0.3:
                await self._create(thread, self.direct, _LOOP)
                self.done["delete_under_a_run"] += 1
            await self.server.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread))

    # --- uses ---------------------------------------------------------------------------------------------------------

    async def run_code(self, thread: str) -> None:
        await self._run(thread, self.direct, _PRINT)

    async def run_words(self, thread: str) -> None:
        await self._run(thread, self.scripted, json.dumps({"tokens": 50, "per_second": 200}))

    async def call_code(self, thread: str) -> None:
        await self._run(thread, self.scripted, json.dumps({"code": "print(sum(range(1000)))"}))

    async def cancel_words(self, thread: str) -> None:
        await self._cancel(thread, self.scripted, json.dumps({"tokens": 5_000, "per_second": 100}))

    async def cancel_code(self, thread: str) -> None:
        await self._cancel(thread, self.direct, _LOOP)

    async def expire(self, thread: str) -> None:
        run = await self._create(thread, self.direct, _LOOP, ttl=Duration(seconds=1))
        await self._ends(run, v1.RUN_STATUS_EXPIRED)

    async def follow(self, thread: str) -> None:
        """Several read one run; some of them leave in the middle."""
        run = await self._create(thread, self.scripted, json.dumps({"tokens": 50, "per_second": 100}))
        await asyncio.gather(*(self._read(run, leaves=number % 3 == 0) for number in range(6)))
        await self._ends(run, v1.RUN_STATUS_COMPLETED)

    async def use_session(self, _thread: str) -> None:
        session = await self.server.open()
        # Little, for it is kept: with the database grow SQLite's caches, up to 16 MiB for each connection.
        await self.server.execute(session, "print(1)")
        await self.server.close(session)

    async def use_files(self, thread: str) -> None:
        content = self.random.randbytes(_FILE_BYTES)
        files, metadata = self.server.files, v1.UploadFileMetadata(filename="a.csv", purpose=v1.FILE_PURPOSE_ASSISTANTS)

        parts = [v1.UploadFileRequest(metadata=metadata), v1.UploadFileRequest(data=content)]
        file = (await files.UploadFile(iter(parts))).file
        attached = v1.MessageAttachment(file_id=file.id)
        await self.server.threads.CreateMessage(
            v1.CreateMessageRequest(thread_id=thread, text="Here.", attachments=[attached])
        )
        received = b"".join([part.data async for part in files.DownloadFile(v1.DownloadFileRequest(file_id=file.id))])
        assert received == content
        await self.server.threads.UpdateThread(
            v1.UpdateThreadRequest(thread_id=thread, update_mask=FieldMask(paths=["tool_resources"]))
        )
        await files.DeleteFile(v1.DeleteFileRequest(file_id=file.id))

    async def delete_outputs(self) -> None:
        """Delete the files that code made: they stay when their thread goes."""
        files = self.server.files
        while found := (await files.ListFiles(v1.ListFilesRequest(page_size=100))).files:
            for file in found:
                await files.DeleteFile(v1.DeleteFileRequest(file_id=file.id))

    # --- pieces -------------------------------------------------------------------------------------------------------

    async def _create(self, thread: str, assistant: str, text: str, ttl: Duration | None = None) -> str:
        new = v1.CreateRunRequest(
            thread_id=thread, assistant_id=assistant, additional_messages=[v1.MessageInput(text=text)], ttl=ttl
        )
        return (await self.server.runs.CreateRun(new)).run.id

    async def _run(self, thread: str, assistant: str, text: str) -> None:
        async for _ in self.server.run(thread, assistant, text):
            pass

    async def _cancel(self, thread: str, assistant: str, text: str) -> None:
        run = await self._create(thread, assistant, text)
        await asyncio.sleep(self.random.uniform(0.0, 0.4))
        await self.server.runs.CancelRun(v1.CancelRunRequest(run_id=run))
        await self._ends(run, v1.RUN_STATUS_CANCELLED)

    async def _ends(self, run: str, status: v1.RunStatus.ValueType) -> None:
        waited = (await self.server.runs.WaitRun(v1.WaitRunRequest(run_id=run))).run
        assert waited.status == status, waited

    async def _read(self, run: str, *, leaves: bool) -> None:
        sequence = 0
        call = self.server.runs.StreamRunEvents(v1.StreamRunEventsRequest(run_id=run))
        with suppress(asyncio.CancelledError if leaves else ZeroDivisionError):
            async for item in call:
                if item.HasField("event"):
                    assert item.event.sequence == sequence + 1, "an event is missing"
                    sequence += 1
                if leaves and sequence > 8:
                    call.cancel()


async def soak(minutes: float) -> list[Sample]:
    """What there is at rest after each part."""
    samples = []
    async with (
        endpoint_process() as endpoint,
        Server({"openai.base_url": endpoint, "runs.concurrent": 100}) as server,
    ):
        uses = Soak(server, await server.assistant("direct"), await server.assistant("scripted"), random.Random(1))
        for _ in range(_PARTS):
            await uses.work(minutes * 60 / _PARTS)
            await uses.delete_outputs()
            samples.append(await _rest(server))
            print(f"{sum(uses.done.values()):>7,} uses  {_told(samples[-1])}", flush=True)
        print(", ".join(f"{name} {count:,}" for name, count in sorted(uses.done.items())))
    return samples


def growth(samples: list[Sample]) -> list[str]:
    """What is more at the end than after the first part."""
    first, last = samples[0], samples[-1]
    found = [
        f"{name}: {getattr(first, name)} became {getattr(last, name)}"
        for name, slack in _SLACK.items()
        if getattr(last, name) > getattr(first, name) + slack
    ]
    found += [
        f"rows of {table}: {first.rows[table]} became {count}"
        for table, count in last.rows.items()
        if table not in _KEPT and count > first.rows[table]
    ]
    if last.log_bytes > _LOG_BYTES:
        found.append(f"the write-ahead log has {last.log_bytes} bytes")
    if last.memory_bytes > first.memory_bytes + _MEMORY_SLACK:
        found.append(f"the server's memory grew from {first.memory_bytes} to {last.memory_bytes} bytes")
    return found


async def _rest(server: Server) -> Sample:
    """What there is, once it is the same twice."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    before, now = None, _sample(server)
    while now != before and time.monotonic() < deadline:
        await asyncio.sleep(1.0)
        before, now = now, _sample(server)
    return now


def _sample(server: Server) -> Sample:
    database = server.data / "afarensis.db"
    status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    values = {name: value for name, _, value in (line.partition(":") for line in status)}
    return Sample(
        processes=len(processes.descendants(server.pid)),
        descriptors=len(list(Path(f"/proc/{server.pid}/fd").iterdir())),
        threads=int(values["Threads"]),
        rows=_rows(database),
        log_bytes=Path(f"{database}-wal").stat().st_size,
        # In steps, so that two looks can find the same.
        memory_bytes=int(values["RssAnon"].split()[0]) * 1024 // _MIB * _MIB,
        stored_bytes=database.stat().st_size,
    )


def _rows(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
    finally:
        connection.close()


def _told(sample: Sample) -> str:
    passing = sum(count for table, count in sample.rows.items() if table not in _KEPT)
    kept = sum(count for table, count in sample.rows.items() if table in _KEPT)
    return (
        f"{sample.memory_bytes / _MIB:.0f} MiB, {sample.descriptors} descriptors, {sample.threads} threads, "
        f"{sample.processes} processes, {passing} rows and {kept:,} that stay, log {sample.log_bytes / _MIB:.1f} MiB, "
        f"database {sample.stored_bytes / _MIB:.1f} MiB"
    )


def main(minutes: float) -> int:
    """Soak, and say what grew; the exit code."""
    found = growth(asyncio.run(soak(minutes)))
    print("\n".join(found) or f"Nothing grew in {minutes:g} minutes.")
    return int(bool(found))
