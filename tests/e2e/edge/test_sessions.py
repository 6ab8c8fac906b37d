from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from afarensis import v1 as pb
from tests.support.rpc import refused
from tests.support.server_process import ServerProcess


@pytest.fixture(scope="module")
def session(sessions: pb.SessionServiceStub) -> pb.Session:
    """A session for all tests here that do not end it."""
    return sessions.CreateSession(pb.CreateSessionRequest(name="mine", metadata={"a": "b"})).session


def events_of(sessions: pb.SessionServiceStub, request: pb.ExecuteRequest) -> list[pb.ExecutionEvent]:
    return [item.event for item in sessions.Execute(request) if item.HasField("event")]


def run(sessions: pb.SessionServiceStub, session: pb.Session, code: str) -> list[pb.ExecutionEvent]:
    return events_of(sessions, pb.ExecuteRequest(session_id=session.id, code=code))


def printed(events: list[pb.ExecutionEvent]) -> str:
    return "".join(event.output.text for event in events)


def test_session_tells_what_it_may_use_and_how_long_it_lives(
    sessions: pb.SessionServiceStub, session: pb.Session
) -> None:
    assert session.id.startswith("sess_")
    assert (session.status, session.name, dict(session.metadata)) == (pb.SESSION_STATUS_ACTIVE, "mine", {"a": "b"})
    assert (session.idle_timeout.seconds, session.lifetime.seconds) == (1_200, 3_600)
    assert session.limits.memory_bytes > 0
    assert session.limits.processes > 0
    assert sessions.GetSession(pb.GetSessionRequest(session_id=session.id)).session.id == session.id


def test_execution_streams_from_started_to_result_without_gaps(
    sessions: pb.SessionServiceStub, session: pb.Session
) -> None:
    events = run(sessions, session, "print('hello')\n6 * 7")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].started.execution_id.startswith("exec_")
    assert events[-1].result.status == pb.EXECUTION_STATUS_OK
    assert printed(events) == "hello\n"
    (display,) = (event.display for event in events if event.HasField("display"))
    assert display.representations[-1].text == "42"


def test_variables_last_from_one_execution_to_the_next(sessions: pb.SessionServiceStub, session: pb.Session) -> None:
    run(sessions, session, "kept = 41")
    assert printed(run(sessions, session, "print(kept + 1)")) == "42\n"


def test_code_that_fails_is_a_result_and_not_an_error(sessions: pb.SessionServiceStub, session: pb.Session) -> None:
    result = run(sessions, session, "1 / 0")[-1].result
    assert (result.status, result.error.name) == (pb.EXECUTION_STATUS_ERROR, "ZeroDivisionError")


def test_timeout_ends_the_code_and_is_said(sessions: pb.SessionServiceStub, session: pb.Session) -> None:
    request = pb.ExecuteRequest(session_id=session.id, code="while True: pass", timeout=Duration(nanos=200_000_000))
    assert events_of(sessions, request)[-1].result.status == pb.EXECUTION_STATUS_TIMEOUT


def test_second_execution_at_the_same_time_is_refused(sessions: pb.SessionServiceStub, session: pb.Session) -> None:
    code = "import time; print('begun', flush=True); time.sleep(30)"
    request = pb.ExecuteRequest(session_id=session.id, code=code, interrupt_on_disconnect=True)
    first = sessions.Execute(request)
    for item in first:
        if item.event.output.text:
            break
    refusal = refused(lambda: sessions.Execute(pb.ExecuteRequest(session_id=session.id, code="1")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY")
    first.cancel()
    # The code was interrupted with its stream, so that the session is free again, with all it knew.
    while True:
        try:
            assert printed(run(sessions, session, "print('free')")) == "free\n"
            break
        except grpc.RpcError:
            continue


def test_code_goes_on_when_its_stream_breaks_off(sessions: pb.SessionServiceStub, session: pb.Session) -> None:
    code = "import time; print('begun', flush=True); time.sleep(0.5); finished = 'yes'"
    stream = sessions.Execute(pb.ExecuteRequest(session_id=session.id, code=code))
    for item in stream:
        if item.event.output.text:
            break
    stream.cancel()
    while True:
        try:
            assert printed(run(sessions, session, "print(finished)")) == "yes\n"
            break
        except grpc.RpcError:
            continue


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExecuteRequest(code=""), "code"),
        (pb.ExecuteRequest(code="1", timeout=Duration(seconds=601)), "timeout"),
        (pb.ExecuteRequest(code="1", timeout=Duration()), "timeout"),
    ],
)
def test_execution_that_cannot_be_is_refused(
    sessions: pb.SessionServiceStub, session: pb.Session, request_: pb.ExecuteRequest, field: str
) -> None:
    request_.session_id = session.id
    refusal = refused(lambda: sessions.Execute(request_))
    assert (refusal.code, refusal.reason, refusal.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        [field],
    )


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateSessionRequest(limits=pb.SessionLimits(memory_bytes=2**50)), "limits.memory_bytes"),
        (pb.CreateSessionRequest(limits=pb.SessionLimits(memory_bytes=512)), "limits.memory_bytes"),
        (pb.CreateSessionRequest(limits=pb.SessionLimits(cpu_cores=0.01)), "limits.cpu_cores"),
        (pb.CreateSessionRequest(limits=pb.SessionLimits(processes=0)), "limits.processes"),
        (pb.CreateSessionRequest(limits=pb.SessionLimits(open_files=3)), "limits.open_files"),
        (pb.CreateSessionRequest(limits=pb.SessionLimits(disk_bytes=4_096)), "limits.disk_bytes"),
        (pb.CreateSessionRequest(limits=pb.SessionLimits(disk_inodes=1)), "limits.disk_inodes"),
        (pb.CreateSessionRequest(lifetime=Duration(seconds=86_401)), "lifetime"),
        (pb.CreateSessionRequest(lifetime=Duration(seconds=60), idle_timeout=Duration(seconds=61)), "idle_timeout"),
        (pb.CreateSessionRequest(name="x" * 257), "name"),
        (pb.CreateSessionRequest(file_ids=["file-x", "file-x"]), "file_ids[1]"),
    ],
)
def test_session_that_cannot_be_is_refused(
    sessions: pb.SessionServiceStub, request_: pb.CreateSessionRequest, field: str
) -> None:
    refusal = refused(lambda: sessions.CreateSession(request_))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


def test_idle_timeout_above_the_lifetime_is_told_what_to_do(sessions: pb.SessionServiceStub) -> None:
    request = pb.CreateSessionRequest(lifetime=Duration(seconds=60), idle_timeout=Duration(seconds=61))
    assert refused(lambda: sessions.CreateSession(request)).message == (
        "Invalid 'idle_timeout': expected more than 0s and at most 60s, which is its lifetime (ask for a longer one "
        "too), but got 61s instead."
    )


def test_session_of_an_unknown_thread_or_file_is_refused(sessions: pb.SessionServiceStub) -> None:
    refusal = refused(lambda: sessions.CreateSession(pb.CreateSessionRequest(thread_id="thread_x")))
    assert refusal.reason == "THREAD_NOT_FOUND"
    refusal = refused(lambda: sessions.CreateSession(pb.CreateSessionRequest(file_ids=["file-x"])))
    assert refusal.reason == "FILE_NOT_FOUND"


def test_closed_session_stays_closed(sessions: pb.SessionServiceStub) -> None:
    made = sessions.CreateSession(pb.CreateSessionRequest()).session
    closed = sessions.CloseSession(pb.CloseSessionRequest(session_id=made.id)).session
    assert closed.status == pb.SESSION_STATUS_CLOSED
    assert closed.HasField("close_time")
    assert not closed.HasField("expire_time")
    assert sessions.CloseSession(pb.CloseSessionRequest(session_id=made.id)).session == closed
    refusal = refused(lambda: sessions.Execute(pb.ExecuteRequest(session_id=made.id, code="1")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_ACTIVE")


def test_unknown_session_is_not_found(sessions: pb.SessionServiceStub) -> None:
    for call in (
        lambda: sessions.GetSession(pb.GetSessionRequest(session_id="sess_x")),
        lambda: sessions.CloseSession(pb.CloseSessionRequest(session_id="sess_x")),
        lambda: sessions.Execute(pb.ExecuteRequest(session_id="sess_x", code="1")),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        assert refusal.message == "No session found with id 'sess_x'."


def test_request_id_runs_code_once(sessions: pb.SessionServiceStub, session: pb.Session) -> None:
    run(sessions, session, "runs = 0")
    request = pb.ExecuteRequest(session_id=session.id, code="runs += 1; print(runs)", request_id="once")
    first, second = events_of(sessions, request), events_of(sessions, request)
    assert printed(first) == "1\n"
    assert second == first
    request.code = "print(runs)"
    refusal = refused(lambda: sessions.Execute(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


def test_limits_of_what_sessions_are_sent_are_settings(tmp_path: Path) -> None:
    settings = {"limits.code_bytes": "1KiB", "limits.request_id_characters": 40, "limits.metadata_pairs": 1}
    with ServerProcess(tmp_path, settings) as process, grpc.insecure_channel(process.address) as channel:
        sessions = pb.SessionServiceStub(channel)
        too_many = pb.CreateSessionRequest(metadata={"a": "1", "b": "2"})
        assert refused(lambda: sessions.CreateSession(too_many)).fields == ["metadata"]
        session = sessions.CreateSession(pb.CreateSessionRequest()).session
        longest = pb.ExecuteAndWaitRequest(session_id=session.id, code="#" * 1_024, request_id="r" * 40)
        assert sessions.ExecuteAndWait(longest).execution.result.status == pb.EXECUTION_STATUS_OK
        too_long = pb.ExecuteAndWaitRequest(session_id=session.id, code="#" * 1_025, request_id="r" * 41)
        assert refused(lambda: sessions.ExecuteAndWait(too_long)).fields == ["request_id", "code"]
