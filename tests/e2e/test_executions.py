"""Executions beyond their calls: taken up, looked at, interrupted, and run once however often they are asked for."""

import asyncio
from collections.abc import Sequence

import grpc
import pytest

from afarensis import v1
from tests.support.api import Api, output_of, refused, result_of, seconds

pytestmark = pytest.mark.asyncio(loop_scope="session")

NO_EXECUTION = "exec_00000000000000000000000000"

ENDLESS = "import time\nkept = 41\nprint('begun')\nwhile True: time.sleep(0.01)"


async def begin(api: Api, session: v1.Session, code: str = ENDLESS) -> tuple[str, list[v1.ExecutionEvent]]:
    """Run code and leave its stream at the first output; the execution, and what was seen of it."""
    call = api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=code))
    seen = []
    async for item in call:
        seen.append(item.event)
        if item.event.HasField("output"):
            break
    call.cancel()
    return seen[0].started.execution_id, seen


async def follow(api: Api, execution_id: str, after: int = 0) -> list[v1.ExecutionEvent]:
    request = v1.StreamExecutionEventsRequest(execution_id=execution_id, after_sequence=after)
    items = [item async for item in api.sessions.StreamExecutionEvents(request)]
    assert items[0].HasField("heartbeat")
    return [item.event for item in items if item.HasField("event")]


async def interrupt(api: Api, execution_id: str) -> None:
    await api.sessions.InterruptExecution(v1.InterruptExecutionRequest(execution_id=execution_id))


async def get(api: Api, execution_id: str) -> v1.Execution:
    return (await api.sessions.GetExecution(v1.GetExecutionRequest(execution_id=execution_id))).execution


def sequences(events: Sequence[v1.ExecutionEvent]) -> list[int]:
    return [event.sequence for event in events]


async def test_stream_that_broke_off_is_taken_up_at_its_cursor(api: Api) -> None:
    session = await api.session()
    execution_id, seen = await begin(api, session, "import time\nprint('one')\ntime.sleep(0.3)\nprint('two')")
    rest = await follow(api, execution_id, seen[-1].sequence)
    assert sequences(seen + rest) == list(range(1, len(seen) + len(rest) + 1))
    assert output_of(seen + rest) == "one\ntwo\n"
    assert result_of(rest).status == v1.EXECUTION_STATUS_OK
    assert await follow(api, execution_id) == seen + rest


async def test_interrupted_code_says_so_and_keeps_its_variables(api: Api) -> None:
    session = await api.session()
    execution_id, seen = await begin(api, session)
    reading = asyncio.create_task(follow(api, execution_id, seen[-1].sequence))
    await interrupt(api, execution_id)
    async with asyncio.timeout(10):
        result = result_of(await reading)
    assert result.status == v1.EXECUTION_STATUS_INTERRUPTED
    assert not result.state_lost
    assert output_of(await api.execute(session.id, "print(kept + 1)")) == "42\n"
    await interrupt(api, execution_id)  # again: nothing happens
    assert (await get(api, execution_id)).result == result


async def test_execution_is_seen_while_it_runs_and_afterwards(api: Api) -> None:
    session = await api.session()
    execution_id, _ = await begin(api, session)
    running = await get(api, execution_id)
    assert (running.id, running.session_id, running.code) == (execution_id, session.id, ENDLESS)
    assert not running.HasField("result")
    assert [output.output.text for output in running.outputs] == ["begun\n"]
    await interrupt(api, execution_id)
    await follow(api, execution_id)
    assert (await get(api, execution_id)).result.status == v1.EXECUTION_STATUS_INTERRUPTED


async def test_unary_call_returns_all_that_came_of_the_code(api: Api) -> None:
    session = await api.session()
    code = "for n in range(3): print(n)\nopen('made.txt', 'w').write('x')\n1 / 0"
    request = v1.ExecuteAndWaitRequest(session_id=session.id, code=code)
    execution = (await api.sessions.ExecuteAndWait(request)).execution
    assert execution.result.status == v1.EXECUTION_STATUS_ERROR
    assert execution.result.error.name == "ZeroDivisionError"
    # Neighbors of one stream are joined.
    assert [output.WhichOneof("item") for output in execution.outputs] == ["output", "file"]
    assert execution.outputs[0].output.text == "0\n1\n2\n"
    assert await api.download(execution.outputs[1].file.file.id) == b"x"
    assert await get(api, execution.id) == execution


async def test_code_with_a_request_id_runs_once(api: Api) -> None:
    session = await api.session()
    await api.execute(session.id, "count = 0")
    request = v1.ExecuteRequest(session_id=session.id, code="count += 1\nprint(count)", request_id=f"once {session.id}")

    async def execute() -> list[v1.ExecutionEvent]:
        return [item.event async for item in api.sessions.Execute(request)]

    first, again = await asyncio.gather(execute(), execute())
    assert first == again == await execute()
    assert output_of(first) == "1\n"
    request.code = "count += 2"
    with refused(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await execute()
    assert output_of(await api.execute(session.id, "print(count)")) == "1\n"


async def test_session_with_a_request_id_is_opened_once(api: Api) -> None:
    request = v1.CreateSessionRequest(name="mine", request_id=f"session {(await api.thread()).id}")
    first = (await api.sessions.CreateSession(request)).session
    assert (await api.sessions.CreateSession(request)).session.id == first.id
    request.name = "other"
    with refused(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await api.sessions.CreateSession(request)


async def test_events_are_listed_behind_a_cursor(api: Api) -> None:
    session = await api.session()
    events = await api.execute(session.id, "print('a')\n1")
    execution_id = events[0].started.execution_id
    request = v1.ListExecutionEventsRequest(execution_id=execution_id, page_size=2)
    page = await api.sessions.ListExecutionEvents(request)
    assert (list(page.events), page.last_sequence, page.ended) == (events[:2], len(events), True)
    request.after_sequence = 2
    assert list((await api.sessions.ListExecutionEvents(request)).events) == events[2:4]


@pytest.mark.parametrize("after", [-1, 100])
async def test_cursor_that_cannot_be_is_refused(api: Api, after: int) -> None:
    session = await api.session()
    events = await api.execute(session.id, "1")
    execution_id = events[0].started.execution_id
    listed = v1.ListExecutionEventsRequest(execution_id=execution_id, after_sequence=after)
    for make in (lambda: follow(api, execution_id, after), lambda: api.sessions.ListExecutionEvents(listed)):
        if after < 0:
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS") as refusal:
                await make()
            assert refusal.violations == [("after_sequence", "OUT_OF_RANGE_VALUE")]
        else:
            with refused(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_PAST_END") as refusal:
                await make()
            assert refusal.metadata["last_sequence"] == str(len(events))


async def test_execution_that_does_not_exist_is_not_found(api: Api) -> None:
    listed = v1.ListExecutionEventsRequest(execution_id=NO_EXECUTION)
    for make in (
        lambda: get(api, NO_EXECUTION),
        lambda: follow(api, NO_EXECUTION),
        lambda: interrupt(api, NO_EXECUTION),
        lambda: api.sessions.ListExecutionEvents(listed),
    ):
        with refused(grpc.StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await make()


async def test_sessions_are_listed_by_thread_and_status(api: Api) -> None:
    thread = await api.thread()
    made = []
    for _ in range(3):
        made.append(await api.session(thread_id=thread.id))
        await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made[-1].id))
    made.append(await api.session(thread_id=thread.id))

    async def listed(**fields: object) -> v1.ListSessionsResponse:
        return await api.sessions.ListSessions(v1.ListSessionsRequest(thread_id=thread.id, **fields))  # type: ignore[arg-type]

    newest_first = [session.id for session in reversed(made)]
    assert [session.id for session in (await listed()).sessions] == newest_first
    active = (await listed(status=v1.SESSION_STATUS_ACTIVE)).sessions
    assert [session.id for session in active] == newest_first[:1]
    first = await listed(page_size=3)
    second = await listed(page_size=3, page_token=first.next_page_token)
    assert [session.id for page in (first, second) for session in page.sessions] == newest_first
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await api.sessions.ListSessions(v1.ListSessionsRequest(page_token=first.next_page_token))


async def test_files_are_added_to_an_open_session(api: Api) -> None:
    session = await api.session()
    file = await api.upload(b"late", "late.txt")
    add = v1.AddSessionFilesRequest(session_id=session.id, file_ids=[file.id])
    assert list((await api.sessions.AddSessionFiles(add)).session.file_ids) == [file.id]
    assert list((await api.sessions.AddSessionFiles(add)).session.file_ids) == [file.id]
    events = await api.execute(session.id, f"print(open('late.txt').read(), open('{file.id}').read())")
    assert output_of(events) == "late late\n"


async def test_files_that_cannot_be_added_are_refused(api: Api) -> None:
    session = await api.session()
    file = await api.upload(b"x", "x.txt")
    for file_ids, code, reason in (
        (["file-1"], grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND"),
        ([], grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
        ([file.id] * 2, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS"),
    ):
        with refused(code, reason):
            await api.sessions.AddSessionFiles(v1.AddSessionFilesRequest(session_id=session.id, file_ids=file_ids))
    execution_id, _ = await begin(api, session)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY") as refusal:
        await api.sessions.AddSessionFiles(v1.AddSessionFilesRequest(session_id=session.id, file_ids=[file.id]))
    assert refusal.metadata["execution_id"] == execution_id
    await interrupt(api, execution_id)


async def test_code_longer_than_its_limit_is_refused(api: Api) -> None:
    session = await api.session()
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS") as refusal:
        await api.execute(session.id, "#" * 1_048_577)
    assert refusal.violations == [("code", "STRING_TOO_LONG")]
    assert result_of(await api.execute(session.id, "#" * 1_048_576)).status == v1.EXECUTION_STATUS_OK


async def test_time_limit_of_an_execution_is_kept(api: Api) -> None:
    session = await api.session()
    events = await api.execute(session.id, "kept = 1\nwhile True: pass", timeout=seconds(0.3))
    assert result_of(events).status == v1.EXECUTION_STATUS_TIMEOUT
    assert "0.3 s" in result_of(events).error.value
    assert output_of(await api.execute(session.id, "print(kept)")) == "1\n"
