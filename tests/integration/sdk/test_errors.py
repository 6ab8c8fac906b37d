import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo

import afarensis
from afarensis import v1

from .scripted_server import ScriptedServer, abort


def test_refused_call_raises_its_reason_and_metadata(server: ScriptedServer, client: afarensis.Client) -> None:
    info = ErrorInfo(reason="THREAD_HAS_ACTIVE_RUN", domain="afarensis.dev", metadata={"run_id": "run_1"})
    server.answer(
        "CreateMessage", lambda _, context: abort(context, grpc.StatusCode.FAILED_PRECONDITION, "Busy.", info)
    )

    with pytest.raises(afarensis.Error) as caught:
        client.threads.CreateMessage(v1.CreateMessageRequest(thread_id="thread_1", text="hello"))

    assert caught.value.status is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.message == "Busy."
    assert caught.value.reason == "THREAD_HAS_ACTIVE_RUN"
    assert caught.value.metadata == {"run_id": "run_1"}
    assert str(caught.value) == "FAILED_PRECONDITION THREAD_HAS_ACTIVE_RUN: Busy."
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_refused_fields_are_named(server: ScriptedServer, client: afarensis.Client) -> None:
    bad_request = BadRequest()
    bad_request.field_violations.add(field="metadata", description="at most 16 pairs")
    bad_request.field_violations.add(field="text", description="too long")
    server.answer(
        "CreateThread", lambda _, context: abort(context, grpc.StatusCode.INVALID_ARGUMENT, "No.", bad_request)
    )

    with pytest.raises(afarensis.Error) as caught:
        client.threads.CreateThread(v1.CreateThreadRequest())

    assert caught.value.violations == (
        afarensis.FieldViolation("metadata", "at most 16 pairs"),
        afarensis.FieldViolation("text", "too long"),
    )
    assert "metadata: at most 16 pairs" in str(caught.value)


def test_retry_delay_and_request_id_are_told(server: ScriptedServer, client: afarensis.Client) -> None:
    details = (RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)), RequestInfo(request_id="abc"))
    server.answer("GetThread", lambda _, context: abort(context, grpc.StatusCode.INTERNAL, "Defect.", *details))

    with pytest.raises(afarensis.Error) as caught:
        client.threads.GetThread(v1.GetThreadRequest())

    assert caught.value.retry_delay == 1.5
    assert caught.value.request_id == "abc"


def test_details_that_cannot_be_read_leave_status_and_message(server: ScriptedServer, client: afarensis.Client) -> None:
    def garbled(_: object, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "Gone.")

    server.answer("GetThread", garbled)

    with pytest.raises(afarensis.Error) as caught:
        client.threads.GetThread(v1.GetThreadRequest())

    assert (caught.value.status, caught.value.message, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "Gone.", "")


def test_error_of_a_stream_is_decoded_too(server: ScriptedServer, client: afarensis.Client) -> None:
    info = ErrorInfo(reason="RUN_NOT_FOUND")
    server.answer("StreamRunEvents", lambda _, context: abort(context, grpc.StatusCode.NOT_FOUND, "None.", info))

    with pytest.raises(afarensis.Error) as caught:
        next(client.runs.StreamRunEvents(v1.StreamRunEventsRequest(run_id="run_1")))

    assert caught.value.reason == "RUN_NOT_FOUND"


def test_unreachable_server_is_unavailable_without_a_reason(server: ScriptedServer) -> None:
    server.stop()
    with afarensis.connect(server.target) as client, pytest.raises(afarensis.Error) as caught:
        client.threads.GetThread(v1.GetThreadRequest())

    assert caught.value.status is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == ""
    assert "Is the server running? `make serve` starts one." in str(caught.value)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:50051", "https://host", "host:port", "host:1:2", "", ":50051", "a/b"]
)
def test_target_that_is_no_address_is_refused_at_once(target: str) -> None:
    with pytest.raises(ValueError, match="A target is host:port"):
        afarensis.connect(target)


def test_port_may_be_left_out() -> None:
    # Nothing listens at the default port of this address, so the error tells where the call went.
    with afarensis.connect("127.0.0.9") as client, pytest.raises(afarensis.Error, match=r"127\.0\.0\.9:50051"):
        client.threads.GetThread(v1.GetThreadRequest())


def test_server_that_never_answered_is_waited_for_only_a_few_seconds(server: ScriptedServer, tmp_path: Path) -> None:
    server.stop()
    (tmp_path / "data.csv").touch()
    began = time.monotonic()

    with afarensis.connect(server.target) as client, pytest.raises(afarensis.Error, match="Is the server running"):
        client.upload(tmp_path / "data.csv")

    assert time.monotonic() - began < 10


def test_future_of_a_call_gives_the_response(server: ScriptedServer, client: afarensis.Client) -> None:
    server.answer("GetThread", lambda request, _: v1.GetThreadResponse(thread=v1.Thread(id=request.thread_id)))

    assert client.threads.GetThread.future(v1.GetThreadRequest(thread_id="thread_1")).result().thread.id == "thread_1"


def test_key_and_deadline_go_with_every_call(server: ScriptedServer) -> None:
    seen = []

    def look(_: object, context: grpc.ServicerContext) -> v1.GetThreadResponse:
        seen.append((dict(context.invocation_metadata()).get("authorization"), context.time_remaining()))
        return v1.GetThreadResponse()

    server.answer("GetThread", look, look)
    with afarensis.connect(server.target, api_key="secret", timeout=30) as client:
        client.threads.GetThread(v1.GetThreadRequest())
        client.threads.GetThread(v1.GetThreadRequest(), timeout=5)

    assert [key for key, _ in seen] == ["Bearer secret", "Bearer secret"]
    assert 20 < seen[0][1] < 31
    assert seen[1][1] < 6
