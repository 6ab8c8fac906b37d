import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

import afarensis
from afarensis import v1

from .scripted_server import Answer, ScriptedServer, abort

LAST = 6


def event(sequence: int) -> v1.RunEvent:
    kind = v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED if sequence == LAST else v1.RUN_EVENT_TYPE_THREAD_RUN_IN_PROGRESS
    return v1.RunEvent(sequence=sequence, type=kind, run=v1.Run(id="run_1"))


def events(
    upto: int,
    then: Callable[[grpc.ServicerContext], object] = lambda _: None,
    response: type[Any] = v1.StreamRunEventsResponse,
) -> Answer:
    """Heartbeat first, then the events after the cursor up to a sequence, then whatever else."""

    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield response(heartbeat=v1.Heartbeat(last_sequence=upto))
        for sequence in range(getattr(request, "after_sequence", 0) + 1, upto + 1):
            yield response(event=event(sequence))
        then(context)

    return answer


def broken(context: grpc.ServicerContext) -> None:
    abort(context, grpc.StatusCode.UNAVAILABLE, "Socket closed")


def sequences(stream: Iterator[v1.RunEvent]) -> list[int]:
    return [item.sequence for item in stream]


def cursors(server: ScriptedServer) -> list[int]:
    return [request.after_sequence for request in server.asked("StreamRunEvents")]


def test_run_is_streamed_to_its_terminal_event(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("StreamRunEvents", events(LAST))

    assert sequences(client.stream_run("run_1")) == [1, 2, 3, 4, 5, 6]


def test_broken_stream_goes_on_without_gap_or_duplicate(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("StreamRunEvents", events(2, broken), events(2, broken), events(5, broken), events(LAST))

    assert sequences(client.stream_run("run_1")) == [1, 2, 3, 4, 5, 6]
    assert cursors(server) == [0, 2, 2, 5]


def test_stream_begins_after_the_cursor(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("StreamRunEvents", events(LAST))
    stream = client.stream_run("run_1", after_sequence=4)

    assert sequences(stream) == [5, 6]
    assert stream.last_sequence == 6


def test_cursor_at_the_end_of_a_finished_run_gives_nothing(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("StreamRunEvents", events(LAST))

    assert sequences(client.stream_run("run_1", after_sequence=LAST)) == []


def test_break_after_the_terminal_event_goes_unnoticed(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("StreamRunEvents", events(LAST, broken))

    assert sequences(client.stream_run("run_1")) == [1, 2, 3, 4, 5, 6]
    assert cursors(server) == [0]


def test_draining_server_is_left_alone_for_as_long_as_it_asks(server: ScriptedServer, client: afarensis.Client) -> None:
    left: list[float] = []
    came_back: list[float] = []

    def draining(context: grpc.ServicerContext) -> None:
        left.append(time.monotonic())
        details = (ErrorInfo(reason="SHUTTING_DOWN"), RetryInfo(retry_delay=Duration(nanos=400_000_000)))
        abort(context, grpc.StatusCode.UNAVAILABLE, "Draining.", *details)

    def back(request: v1.StreamRunEventsRequest, context: grpc.ServicerContext) -> Iterator[v1.StreamRunEventsResponse]:
        came_back.append(time.monotonic())
        yield from events(LAST)(request, context)

    server.answer("StreamRunEvents", events(3, draining), back)

    assert sequences(client.stream_run("run_1")) == [1, 2, 3, 4, 5, 6]
    assert came_back[0] - left[0] >= 0.4


def test_silent_connection_is_replaced(server: ScriptedServer, client: afarensis.Client) -> None:
    released = threading.Event()
    server.answer("StreamRunEvents", events(2, lambda _: released.wait(30)), events(LAST))

    assert sequences(client.stream_run("run_1", heartbeat_interval=0.05)) == [1, 2, 3, 4, 5, 6]
    released.set()
    assert cursors(server) == [0, 2]


def test_slow_reader_keeps_its_connection(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("StreamRunEvents", events(LAST))
    seen = []
    for item in client.stream_run("run_1", heartbeat_interval=0.02):
        seen.append(item.sequence)
        threading.Event().wait(0.1)  # longer than the silence after which a connection counts as dead

    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(server.asked("StreamRunEvents")) == 1


def test_server_that_stays_away_is_given_up(server: ScriptedServer) -> None:
    server.stop()
    with afarensis.connect(server.target, give_up_after=0.3) as client, pytest.raises(afarensis.Error) as caught:
        next(client.stream_run("run_1"))

    assert caught.value.status is grpc.StatusCode.UNAVAILABLE


def test_closing_the_client_ends_the_wait_for_a_server(server: ScriptedServer) -> None:
    server.stop()
    client = afarensis.connect(server.target, give_up_after=600)
    failed: list[Exception] = []

    def follow() -> None:
        try:
            next(client.stream_run("run_1"))
        except (afarensis.Error, ValueError) as error:
            failed.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    client.close()
    thread.join(10)

    assert not thread.is_alive()
    assert len(failed) == 1


def test_missing_event_is_an_error(server: ScriptedServer, client: afarensis.Client) -> None:
    def gap(_: object, __: grpc.ServicerContext) -> Iterator[v1.StreamRunEventsResponse]:
        yield v1.StreamRunEventsResponse(event=event(1))
        yield v1.StreamRunEventsResponse(event=event(3))

    server.answer("StreamRunEvents", gap)

    with pytest.raises(afarensis.Error, match="Event 2 of run_1 is missing"):
        sequences(client.stream_run("run_1"))


def test_unknown_run_is_not_tried_again(server: ScriptedServer, client: afarensis.Client) -> None:
    details = ErrorInfo(reason="RUN_NOT_FOUND")
    server.answer("StreamRunEvents", lambda _, context: abort(context, grpc.StatusCode.NOT_FOUND, "None.", details))

    with pytest.raises(afarensis.Error) as caught:
        next(client.stream_run("run_1"))

    assert caught.value.reason == "RUN_NOT_FOUND"
    assert len(server.asked("StreamRunEvents")) == 1


def test_left_stream_ends_its_call(server: ScriptedServer, client: afarensis.Client) -> None:
    ended = threading.Event()

    def waits(_: object, context: grpc.ServicerContext) -> Iterator[v1.StreamRunEventsResponse]:
        context.add_callback(ended.set)
        yield v1.StreamRunEventsResponse(event=event(1))
        ended.wait(30)

    server.answer("StreamRunEvents", waits)

    with client.stream_run("run_1") as stream:
        assert next(stream).sequence == 1

    assert ended.wait(10)


def test_created_run_goes_on_with_the_run_after_a_break(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("CreateRunStream", events(2, broken, v1.CreateRunStreamResponse))
    server.answer("StreamRunEvents", events(LAST))
    stream = client.create_run_stream(v1.CreateRunRequest(thread_id="thread_1", assistant_id="asst_1"))

    assert sequences(stream) == [1, 2, 3, 4, 5, 6]
    assert stream.run_id == "run_1"
    assert cursors(server) == [2]


def test_run_is_created_once_when_the_first_event_gets_lost(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer(
        "CreateRunStream", lambda _, context: broken(context), events(LAST, response=v1.CreateRunStreamResponse)
    )
    request = v1.CreateThreadAndRunRequest(run=v1.CreateRunRequest(assistant_id="asst_1"))

    assert sequences(client.create_run_stream(request)) == [1, 2, 3, 4, 5, 6]

    first, second = server.asked("CreateRunStream")
    assert first.thread_and_run.request_id == second.thread_and_run.request_id != ""
    assert request.request_id == ""
