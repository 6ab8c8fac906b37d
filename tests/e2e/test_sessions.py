"""Sessions without a model: what code sees and shows, one at a time, and how they end."""

import asyncio

import grpc
import pytest

from afarensis import v1
from tests.support.api import Api, code_files, output_of, refused, result_of, seconds
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENDLESS = "import time\nprint('begun')\nwhile True: time.sleep(0.01)"


async def test_session_that_stands_alone_has_the_files_it_was_given(api: Api) -> None:
    file = await api.upload(b"1,2", "pair.csv")
    session = await api.session(file_ids=[file.id], name="mine", metadata={"a": "b"})
    assert session.status == v1.SESSION_STATUS_ACTIVE
    assert (session.thread_id, session.name, dict(session.metadata)) == ("", "mine", {"a": "b"})
    assert list(session.file_ids) == [file.id]
    events = await api.execute(session.id, f"print(open('pair.csv').read(), open('/mnt/data/{file.id}').read())")
    assert output_of(events) == "1,2 1,2\n"
    assert (await api.sessions.GetSession(v1.GetSessionRequest(session_id=session.id))).session.id == session.id


async def test_session_of_a_thread_has_the_files_of_the_thread(api: Api) -> None:
    file = await api.upload(b"1,2", "pair.csv")
    thread = (await api.threads.CreateThread(v1.CreateThreadRequest(tool_resources=code_files([file.id])))).thread
    session = await api.session(thread_id=thread.id)
    assert output_of(await api.execute(session.id, "print(open('pair.csv').read())")) == "1,2\n"


async def test_thread_has_one_session(api: Api) -> None:
    thread = await api.thread()
    session = await api.session(thread_id=thread.id)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS") as refusal:
        await api.session(thread_id=thread.id)
    assert refusal.metadata == {"thread_id": thread.id, "session_id": session.id}
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
    assert (await api.session(thread_id=thread.id)).id != session.id


async def test_of_many_sessions_at_once_a_thread_gets_one(api: Api) -> None:
    thread = await api.thread()
    made = await asyncio.gather(*(api.session(thread_id=thread.id) for _ in range(5)), return_exceptions=True)
    assert [isinstance(answer, v1.Session) for answer in made].count(True) == 1


async def test_execution_tells_all_that_code_does_in_order(api: Api) -> None:
    session = await api.session()
    events = await api.execute(
        session.id,
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('again')\n"
        "display({'a': 1})\nopen('made.txt', 'w').write('x')\n[1, 2]",
    )
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "result"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    streams = [(event.output.stream, event.output.text) for event in events if event.HasField("output")]
    assert "".join(text for stream, text in streams if stream == v1.OUTPUT_STREAM_STDOUT) == "out\nagain\n"
    assert "".join(text for stream, text in streams if stream == v1.OUTPUT_STREAM_STDERR) == "err\n"
    shown = [event.display.representations[-1].text for event in events if event.HasField("display")]
    assert shown == ["{'a': 1}", "[1, 2]"]
    (file,) = [event.file for event in events if event.HasField("file")]
    assert (file.path, file.change, file.size_bytes) == ("/mnt/data/made.txt", v1.FILE_CHANGE_CREATED, 1)
    result = result_of(events)
    assert result.status == v1.EXECUTION_STATUS_OK
    assert result.wall_duration.ToNanoseconds() > 0
    assert not result.HasField("error")


async def test_table_and_figure_come_in_all_their_forms(api: Api) -> None:
    session = await api.session()
    events = await api.execute(
        session.id,
        "import pandas as pd, matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\npd.DataFrame({'a': [1]})",
    )
    figure, table = [event.display.representations for event in events if event.HasField("display")]
    (png,) = [form for form in figure if form.media_type == "image/png"]
    assert (await api.download(png.file_id)).startswith(b"\x89PNG")
    assert {form.media_type for form in table} >= {"text/html", "text/plain"}
    assert "<table" in next(form.text for form in table if form.media_type == "text/html")


async def test_session_at_work_names_its_execution(api: Api) -> None:
    session = await api.session()
    running = api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=ENDLESS, interrupt_on_disconnect=True))
    started = (await anext(aiter(running))).event.started
    assert (await _get(api, session)).active_execution_id == started.execution_id
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY") as refusal:
        await api.execute(session.id, "1")
    assert refusal.metadata == {"session_id": session.id, "execution_id": started.execution_id}
    running.cancel()


async def test_closed_session_ends_its_code(api: Api) -> None:
    session = await api.session()
    running = asyncio.create_task(api.execute(session.id, ENDLESS))
    async with asyncio.timeout(10):
        while not (await _get(api, session)).active_execution_id:
            pass
        await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
        result = result_of(await running)
    assert result.status == v1.EXECUTION_STATUS_INTERRUPTED
    assert result.state_lost
    assert "closed" in result.error.value
    assert (await _get(api, session)).status == v1.SESSION_STATUS_CLOSED


async def test_session_that_is_closed_under_a_run_lets_the_run_end(api: Api) -> None:
    run = await api.run(text=f"```python\n{ENDLESS}\n```")
    seen = await api.until(
        run.id, lambda event: any(call.code_interpreter.session_id for call in event.run_step_delta.tool_calls)
    )
    session_id = seen[-1].run_step_delta.tool_calls[0].code_interpreter.session_id
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session_id))
    run = await api.settled(run)
    assert run.status == v1.RUN_STATUS_COMPLETED
    (made,) = await api.code_calls(run)
    assert made.result.status == v1.EXECUTION_STATUS_INTERRUPTED


async def test_idle_session_expires(api: Api) -> None:
    session = await api.session(idle_timeout=seconds(0.2))
    assert session.expire_time.ToNanoseconds() - session.create_time.ToNanoseconds() == 200_000_000
    async with asyncio.timeout(10):
        while (expired := await _get(api, session)).status == v1.SESSION_STATUS_ACTIVE:
            pass
    assert expired.status == v1.SESSION_STATUS_EXPIRED
    assert not expired.HasField("expire_time")
    told = f"Session {session.id} is expired. Create a new one."
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_ACTIVE", told) as refusal:
        await api.execute(session.id, "1")
    assert refusal.metadata == {"session_id": session.id, "status": "expired"}


async def test_session_at_work_expires_once_it_is_idle(api: Api) -> None:
    session = await api.session(idle_timeout=seconds(0.2))
    events = await api.execute(session.id, "import time\ntime.sleep(0.6)\nprint('done')")
    assert output_of(events) == "done\n"
    async with asyncio.timeout(10):
        while (await _get(api, session)).status == v1.SESSION_STATUS_ACTIVE:
            pass


async def test_code_does_not_reach_the_server(api: Api, server: ServerProcess) -> None:
    session = await api.session()
    port = int(server.address.rpartition(":")[2])
    events = await api.execute(session.id, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)")
    assert result_of(events).status == v1.EXECUTION_STATUS_ERROR
    assert result_of(events).error.name in ("OSError", "ConnectionRefusedError", "PermissionError")


async def _get(api: Api, session: v1.Session) -> v1.Session:
    return (await api.sessions.GetSession(v1.GetSessionRequest(session_id=session.id))).session
