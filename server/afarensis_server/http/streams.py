"""The events of a run as server-sent events."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..domain.events import EventType
from ..domain.runs import Run
from ..errors import RunNotFound
from ..events.log import Heartbeat
from ..runs.service import Runs
from .convert.events import EventWriter
from .convert.values import Json, Shape
from .endpoint import Call, Streamed
from .errors import Failure

_MEDIA_TYPE = "text/event-stream"
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_DONE = b"event: done\ndata: [DONE]\n\n"
#: Clients pass over comments; what is between them and the server sees that the connection lives. With an empty line
#: behind it, the Python SDK would take it for an event without data.
_BEAT = b": still here\n"


def stream_run(
    call: Call, runs: Runs, run_id: str, heartbeat_seconds: float, after_sequence: int = 0, trimmed_sequence: int = 0
) -> Streamed:
    """Follow a run from an event on, until it is over or waits for the client.

    ``trimmed_sequence``: its last event that is no longer kept.
    """
    pieces = _pieces(runs, call.project, run_id, heartbeat_seconds, after_sequence, trimmed_sequence, call.shape)
    return Streamed(pieces, _MEDIA_TYPE, _HEADERS, failed=_failed)


async def resumed(call: Call, runs: Runs, heartbeat_seconds: float, thread_id: str | None = None) -> Streamed | None:
    """The rest of the stream that a client was in before, if it says so. Raises RunNotFound."""
    if (last := call.last_event) is None:
        return None
    run = await runs.get(call.project, last[0])
    if thread_id is not None and run.thread_id != thread_id:
        raise RunNotFound(id=run.id)
    return await stream_from(call, runs, run, last[1], heartbeat_seconds)


async def stream_from(call: Call, runs: Runs, run: Run, after_sequence: int, heartbeat_seconds: float) -> Streamed:
    """Follow a run behind an event that a client names. Raises CursorPastEnd, EventsTrimmed.

    Where it is the client's turn, and it has seen that, there is no more to come.
    """
    page = await runs.list_events(call.project, run.id, after_sequence, 1)
    if await runs.waits_at(call.project, run.id, after_sequence):
        return Streamed(_nothing(), _MEDIA_TYPE, _HEADERS, failed=_failed)
    return stream_run(call, runs, run.id, heartbeat_seconds, after_sequence, page.trimmed_sequence)


async def _nothing() -> AsyncGenerator[bytes, None]:
    yield _DONE


async def _pieces(
    runs: Runs,
    project: str,
    run_id: str,
    heartbeat_seconds: float,
    after_sequence: int,
    trimmed_sequence: int,
    shape: Shape,
) -> AsyncGenerator[bytes, None]:
    writer = EventWriter(shape)
    # From the first event that is kept, whoever saw it: how the next is written depends on those before it.
    async with aclosing(runs.follow_events(project, run_id, trimmed_sequence, heartbeat_seconds)) as items:
        async for item in items:
            if isinstance(item, Heartbeat):
                yield _BEAT
                continue
            written = writer.write(item)
            if item.sequence <= after_sequence:
                continue
            if not written:
                # It has no form here, and with more like it the connection would look dead.
                yield _BEAT
                continue
            # Asked before it is told: who answers it at once does not change where this stream ends.
            waits = item.type is EventType.RUN_REQUIRES_ACTION and await runs.waits_at(project, run_id, item.sequence)
            # Only the last one is a place to go on from.
            for left, data in enumerate(written, 1 - len(written)):
                yield _event(item.type.value, data, "" if left else f"{run_id}:{item.sequence}")
            if waits:
                break
        yield _DONE


def _event(name: str, data: Json, event_id: str) -> bytes:
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    place = f"id: {event_id}\n" if event_id else ""
    return f"event: {name}\n{place}data: {body}\n\n".encode("utf-8", "replace")


def _failed(failure: Failure) -> bytes:
    return f"event: error\ndata: {json.dumps(failure.envelope, ensure_ascii=False)}\n\n".encode()
