"""What is deleted while it is in use, as clients see it."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from afarensis import v1
from tests.support.api import CODE_INTERPRETER, Api, direct, is_event, output_of, printed, prints, refused, result_of
from tests.support.scripted_model import Wait, code, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOT_FOUND = grpc.StatusCode.NOT_FOUND
ENDLESS = "print('it runs')\nwhile True: pass"
SHOW = "print(open('/mnt/data/data.csv').read())"
LIST = "import os; print(sorted(name for name in os.listdir('/mnt/data') if not name.startswith('file-')))"


async def test_file_that_is_deleted_stays_in_the_sessions_that_have_it(api: Api) -> None:
    file = await api.upload(b"a,b\n")
    session = await api.session(file_ids=[file.id])
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=file.id))
    assert output_of(await api.execute(session.id, SHOW)) == "a,b\n\n"
    with refused(NOT_FOUND, "FILE_NOT_FOUND", f"No such File object: {file.id}"):
        await api.session(file_ids=[file.id])


async def test_thread_goes_on_without_an_attached_file_that_was_deleted(
    api: Api, script: Callable[..., Script]
) -> None:
    file = await api.upload(b"a,b\n")
    thread = await api.thread("Read it.", attachments=[file.id])
    turns = script(code(SHOW), text("Read."), code(LIST), text("It is gone."))
    first = await api.settled(await api.run(turns.model, CODE_INTERPRETER, thread_id=thread.id))
    (made,) = await api.code_calls(first)
    assert printed(made) == "a,b\n\n"
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=file.id))
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    await api.say(thread.id, "Again.")
    second = await api.settled(await api.run(turns.model, CODE_INTERPRETER, thread_id=thread.id))
    assert second.status == v1.RUN_STATUS_COMPLETED
    assert list(second.tool_resources.code_interpreter.file_ids) == []
    assert printed((await api.code_calls(second))[0]) == "[]\n"
    missing = "Files that were deleted and are not there any more:\n- /mnt/data/data.csv"
    for request in turns.requests[2:]:
        assert missing in request.body["messages"][0]["content"]
    assert "deleted" not in turns.requests[0].body["messages"][0]["content"]


async def test_model_is_not_told_that_a_file_is_gone_which_the_open_session_has(
    api: Api, script: Callable[..., Script]
) -> None:
    file = await api.upload(b"a,b\n")
    thread = await api.thread("Read it.", attachments=[file.id])
    turns = script(code(SHOW), text("Read."), code(SHOW), text("Again."))
    await api.settled(await api.run(turns.model, CODE_INTERPRETER, thread_id=thread.id))
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=file.id))
    await api.say(thread.id, "Again.")
    second = await api.settled(await api.run(turns.model, CODE_INTERPRETER, thread_id=thread.id))
    assert printed((await api.code_calls(second))[0]) == "a,b\n\n"
    assert "deleted" not in turns.requests[2].body["messages"][0]["content"]


async def test_assistant_goes_on_without_a_file_that_was_deleted(api: Api) -> None:
    gone, left = await api.upload(b"x", "gone.csv"), await api.upload(b"y", "left.csv")
    assistant, thread = await api.assistant(file_ids=[gone.id, left.id]), await api.thread(direct(LIST))
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=gone.id))
    request = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    run = await api.settled((await api.runs.CreateRun(request)).run)
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert list(run.tool_resources.code_interpreter.file_ids) == [left.id]
    assert printed((await api.code_calls(run))[0]) == "['left.csv']\n"


async def test_file_that_is_deleted_while_its_run_waits_for_the_model_is_left_out(
    api: Api, script: Callable[..., Script]
) -> None:
    gone, left = await api.upload(b"x", "gone.csv"), await api.upload(b"y", "left.csv")
    thread = await api.thread("Read it.", attachments=[gone.id, left.id])
    release = asyncio.Event()
    model = script(code(LIST).first(Wait(release)), text("Well.")).model
    run = await api.run(model, CODE_INTERPRETER, thread_id=thread.id)
    await api.until(run.id, is_event("run.in_progress"))
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=gone.id))
    release.set()
    run = await api.settled(run)
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert printed((await api.code_calls(run))[0]) == "['left.csv']\n"


async def test_session_of_a_thread_is_opened_without_what_was_deleted(api: Api) -> None:
    gone, left = await api.upload(b"x", "gone.csv"), await api.upload(b"y", "left.csv")
    thread = await api.thread(attachments=[gone.id, left.id])
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=gone.id))
    session = await api.session(thread_id=thread.id)
    assert output_of(await api.execute(session.id, LIST)) == "['left.csv']\n"


async def test_message_keeps_its_words_when_the_file_it_cites_is_deleted(
    api: Api, script: Callable[..., Script]
) -> None:
    model = script(
        code("open('/mnt/data/out.csv', 'w').write('1')"),
        text("See sandbox:/mnt/data/out.csv for it."),
        code("import os; print(os.path.exists('/mnt/data/out.csv'))"),
        text("Well."),
    ).model
    run = await api.settled(await api.run(model, CODE_INTERPRETER))
    message = await api.answer(run)
    (annotation,) = message.content[0].text.annotations
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=annotation.file_path.file_id))
    assert await api.answer(run) == message
    with refused(NOT_FOUND, "FILE_NOT_FOUND"):
        await api.download(annotation.file_path.file_id)
    # The thread goes on, in a session of its own as well.
    (made,) = await api.code_calls(run)
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    await api.say(run.thread_id, "Is it there?")
    second = await api.settled(await api.run(model, CODE_INTERPRETER, thread_id=run.thread_id))
    assert second.status == v1.RUN_STATUS_COMPLETED
    (looked,) = await api.code_calls(second)
    assert printed(looked) == "False\n"


async def test_thread_that_is_deleted_ends_the_execution_in_its_session(api: Api) -> None:
    thread = await api.thread()
    session = await api.session(thread_id=thread.id)
    begun = asyncio.Event()
    seen: list[v1.ExecutionEvent] = []

    async def follow() -> None:
        async for item in api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=ENDLESS)):
            if item.HasField("event"):
                seen.append(item.event)
                if item.event.HasField("output"):
                    begun.set()

    following = asyncio.create_task(follow())
    async with asyncio.timeout(30):
        await begun.wait()
        await api.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=thread.id))
        await following
    result = result_of(seen)
    assert (result.status, result.error.name) == (v1.EXECUTION_STATUS_INTERRUPTED, "SessionClosed")
    ended = (await api.sessions.GetSession(v1.GetSessionRequest(session_id=session.id))).session
    assert ended.status == v1.SESSION_STATUS_CLOSED
    # What a session did is accounted for after its thread is gone.
    request = v1.GetExecutionRequest(execution_id=seen[0].started.execution_id)
    assert (await api.sessions.GetExecution(request)).execution.outputs


async def test_thread_that_is_deleted_while_code_runs_ends_all_streams_of_its_run(
    api: Api, script: Callable[..., Script]
) -> None:
    run = await api.run(script(code(ENDLESS)).model, CODE_INTERPRETER)
    before = await api.until(run.id, prints("it runs"))
    readers = [asyncio.create_task(api.events(run.id, before[-1].sequence)) for _ in range(5)]
    async with asyncio.timeout(30):
        await api.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=run.thread_id))
        ends = await asyncio.gather(*readers, return_exceptions=True)
    for end in ends:
        # Either it saw how the run ended, or it was told that there is no run any more.
        if isinstance(end, BaseException):
            assert isinstance(end, grpc.aio.AioRpcError)
            assert end.code() is NOT_FOUND
        else:
            assert end[-1].run.status == v1.RUN_STATUS_CANCELLED
    with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await api.events(run.id)
    with refused(NOT_FOUND, "THREAD_NOT_FOUND"):
        await api.messages(run.thread_id)
