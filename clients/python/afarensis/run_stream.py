"""A run's events as one unbroken sequence, whatever happens to the connection."""

import threading
import time
import uuid
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Protocol, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from afarensis import v1
from afarensis._retry import Retries
from afarensis.errors import Error

_Item = v1.StreamRunEventsResponse | v1.CreateRunStreamResponse


class _Call(Protocol):
    """What is needed of a running call of either method."""

    def __next__(self) -> _Item: ...

    def __iter__(self) -> Iterator[_Item]: ...

    def cancel(self) -> object: ...


#: The event types that end a run.
TERMINAL_TYPES = frozenset(
    {
        v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED,
        v1.RUN_EVENT_TYPE_THREAD_RUN_INCOMPLETE,
        v1.RUN_EVENT_TYPE_THREAD_RUN_FAILED,
        v1.RUN_EVENT_TYPE_THREAD_RUN_CANCELLED,
        v1.RUN_EVENT_TYPE_THREAD_RUN_EXPIRED,
    }
)

#: Heartbeat intervals without a sign of life after which a connection counts as dead.
SILENT_INTERVALS = 3


class RunStream(Iterator[v1.RunEvent]):
    """The events of a run, each exactly once and in order, up to the terminal one.

    A connection that breaks, or goes silent, is replaced by one that begins after the last event. What trying again
    cannot mend is raised as Error. Closing the stream, or leaving it as a context manager, does not stop the run.
    """

    #: The run; empty until the first event of a run that is being created.
    run_id: str
    #: The sequence of the last event that was yielded: where a later stream goes on.
    last_sequence: int

    def __init__(
        self,
        stub: v1.RunServiceStub,
        *,
        run_id: str = "",
        create: v1.CreateRunStreamRequest | None = None,
        after_sequence: int = 0,
        heartbeat_interval: float,
        retries: Retries,
    ) -> None:
        self.run_id = run_id
        self.last_sequence = after_sequence
        self._stub = stub
        self._create = create
        self._heartbeat_interval = heartbeat_interval
        self._retries = retries
        self._events = self._follow()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> v1.RunEvent:
        return next(self._events)

    def close(self) -> None:
        """Leave the stream. The run goes on. May be repeated."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self) -> Generator[v1.RunEvent]:
        ended = False
        while True:
            try:
                for event in self._connect():
                    if event.sequence <= self.last_sequence:
                        continue  # a repeated CreateRunStream begins at the first event again
                    if event.sequence != self.last_sequence + 1:
                        raise Error(
                            grpc.StatusCode.DATA_LOSS,
                            f"Event {self.last_sequence + 1} of {self.run_id} is missing: {event.sequence} came next.",
                        )
                    self.last_sequence = event.sequence
                    self.run_id = self.run_id or event.run.id
                    ended = event.type in TERMINAL_TYPES
                    yield event
                return
            except Error as error:
                if ended:
                    return  # all there is has come; only the server's OK has not
                self._retries.wait(error)

    def _connect(self) -> Generator[v1.RunEvent]:
        """The events of one connection; ends with it."""
        call = self._call()
        with _Watchdog(call, SILENT_INTERVALS * self._heartbeat_interval) as watchdog:
            try:
                while (item := watchdog.next()) is not None:
                    self._retries.succeeded()
                    if item.WhichOneof("item") == "event":
                        yield item.event
            except Error as error:
                if watchdog.has_cancelled:
                    raise Error(grpc.StatusCode.UNAVAILABLE, "The connection went silent.") from error
                raise

    def _call(self) -> _Call:
        heartbeat_interval = Duration()
        heartbeat_interval.FromMilliseconds(int(self._heartbeat_interval * 1000))
        if not self.run_id and self._create is not None:
            self._create.heartbeat_interval.CopyFrom(heartbeat_interval)
            return self._stub.CreateRunStream(self._create)
        return self._stub.StreamRunEvents(
            v1.StreamRunEventsRequest(
                run_id=self.run_id, after_sequence=self.last_sequence, heartbeat_interval=heartbeat_interval
            )
        )


def creation(
    request: v1.CreateRunRequest | v1.CreateThreadAndRunRequest,
) -> v1.CreateRunStreamRequest:
    """The request to create a run and stream it, with a request id that makes it safe to repeat."""
    create = (
        v1.CreateRunStreamRequest(run=request)
        if isinstance(request, v1.CreateRunRequest)
        else v1.CreateRunStreamRequest(thread_and_run=request)
    )
    inner = create.run if create.WhichOneof("create") == "run" else create.thread_and_run
    inner.request_id = inner.request_id or str(uuid.uuid4())
    return create


class _Watchdog:
    """Reads a call, and cancels it when it has been silent for too long: a dead connection sends no heartbeats.

    Only the time spent waiting counts, not the time that a slow reader takes between two items.
    """

    def __init__(self, call: _Call, silence: float) -> None:
        self._call = call
        self._silence = silence
        self._waiting_since: float | None = None
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="afarensis-watchdog", daemon=True)
        self.has_cancelled = False

    def next(self) -> _Item | None:
        """The next item; None at the end."""
        self._waiting_since = time.monotonic()
        item = next(self._call, None)
        self._waiting_since = None
        return item

    def _watch(self) -> None:
        while not self._finished.wait(self._silence / 4):
            since = self._waiting_since
            if since is not None and time.monotonic() - since >= self._silence:
                self.has_cancelled = True
                self._call.cancel()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finished.set()
        self._thread.join()
        self._call.cancel()
