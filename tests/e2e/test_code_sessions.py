"""Sessions of threads, which their runs share with clients; executions that are left, or wait for a session."""

import asyncio

import pytest

from afarensis import v1
from tests.support.api import ENDLESS, Api, direct, output_of, printed, prints, result_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_thread_keeps_its_variables_from_run_to_run(api: Api) -> None:
    first = await api.settled(await api.run_code("x = 20"))
    second = await api.settled(await api.run_code("print(x + 1)", first.thread_id))
    (one,), (two,) = await api.code_calls(first), await api.code_calls(second)
    assert (printed(two), two.state_lost) == ("21\n", False)
    assert one.session_id == two.session_id
    assert one.execution_id != two.execution_id


async def test_two_threads_are_two_sessions(api: Api) -> None:
    first = await api.settled(await api.run_code("x = 1\nopen('/mnt/data/mine.txt', 'w').write('mine')"))
    second = await api.settled(await api.run_code("import os\nprint('x' in globals(), os.listdir('/mnt/data'))"))
    (one,), (two,) = await api.code_calls(first), await api.code_calls(second)
    assert one.session_id != two.session_id
    assert printed(two) == "False []\n"


async def test_runs_of_many_threads_run_at_the_same_time(api: Api) -> None:
    # Each waits until all have begun, by a file that its own session never gets: hence by time, in one piece.
    begun = [await api.run(text=direct(ENDLESS)) for _ in range(4)]
    await asyncio.gather(*(api.until(run.id, prints("line 2\n")) for run in begun))
    await asyncio.gather(*(api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id)) for run in begun))
    ended = await asyncio.gather(*(api.settled(run) for run in begun))
    assert {run.status for run in ended} == {v1.RUN_STATUS_CANCELLED}


async def test_session_of_a_thread_is_shared_by_runs_and_clients(api: Api) -> None:
    run = await api.settled(await api.run_code("x = 5"))
    (made,) = await api.code_calls(run)
    session = (await api.sessions.GetSession(v1.GetSessionRequest(session_id=made.session_id))).session
    assert (session.thread_id, session.status) == (run.thread_id, v1.SESSION_STATUS_ACTIVE)
    assert output_of(await api.execute(session.id, "print(x)\nx = 6")) == "5\n"
    again = await api.settled(await api.run_code("print(x)", run.thread_id))
    (after,) = await api.code_calls(again)
    assert printed(after) == "6\n"


async def test_thread_whose_session_was_closed_gets_a_new_one_with_its_files(api: Api) -> None:
    run = await api.settled(await api.run_code("x = 5\nopen('/mnt/data/made.txt', 'w').write('made')"))
    (made,) = await api.code_calls(run)
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    again = await api.settled(
        await api.run_code("print('x' in globals(), open('/mnt/data/made.txt').read())", run.thread_id)
    )
    (after,) = await api.code_calls(again)
    assert after.session_id != made.session_id
    assert after.state_lost
    assert printed(after) == "False made\n"


async def test_session_of_a_thread_can_be_opened_before_its_first_run(api: Api) -> None:
    file = await api.upload(b"1,2", "pair.csv")
    thread = await api.thread(direct("print(y)"), attachments=[file.id])
    session = await api.session(thread_id=thread.id)
    assert list(session.file_ids) == [file.id]
    assert output_of(await api.execute(session.id, "y = open('/mnt/data/pair.csv').read()")) == ""
    (made,) = await api.code_calls(await api.settled(await api.run(thread_id=thread.id)))
    assert (made.session_id, printed(made)) == (session.id, "1,2\n")


# --- leaving an execution ---------------------------------------------------------------------------------------------


async def test_execution_that_asked_for_it_is_interrupted_when_its_stream_is_dropped(api: Api) -> None:
    session = await api.session()
    request = v1.ExecuteRequest(session_id=session.id, code=ENDLESS, interrupt_on_disconnect=True)
    items = api.sessions.Execute(request)
    async for item in items:
        if "line 2\n" in item.event.output.text:
            break
    items.cancel()
    events = await _execute_when_free(api, session.id, "print(kept)")
    assert output_of(events) == "41\n"
    assert result_of(events).status == v1.EXECUTION_STATUS_OK


async def _execute_when_free(api: Api, session_id: str, source: str) -> list[v1.ExecutionEvent]:
    """Nothing tells a client when a session is free again: ask until it is."""
    async with asyncio.timeout(20):
        while True:
            session = (await api.sessions.GetSession(v1.GetSessionRequest(session_id=session_id))).session
            if not session.active_execution_id:
                return await api.execute(session_id, source)


async def test_code_whose_session_ends_before_it_begins_runs_in_the_next_one(api: Api) -> None:
    thread = await api.thread()
    session = await api.session(thread_id=thread.id)
    running = api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=ENDLESS))
    async for item in running:
        if item.event.output.text:
            break
    run = await api.run_code("print('here')", thread_id=thread.id)
    # The code is known, and waits for the code that runs.
    await api.until(run.id, lambda event: any(call.code_interpreter.input for call in event.run_step_delta.tool_calls))
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
    run = await api.settled(run)
    assert run.status == v1.RUN_STATUS_COMPLETED, run.last_error
    (call,) = await api.code_calls(run)
    assert printed(call) == "here\n"
    assert call.session_id != session.id
    assert call.state_lost
