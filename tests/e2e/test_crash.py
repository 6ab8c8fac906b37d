"""The server is killed in the middle of three runs, and started again on the same data directory.

One run was waiting for the model's words, one was running code, one was waiting for its client. Their readers come back
with the cursors they had.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from random import Random

import pytest
import pytest_asyncio

import afarensis
from afarensis import v1
from tests.support.api import (
    CODE_INTERPRETER,
    LOOKUP,
    Api,
    event_name,
    is_event,
    printed,
    prints,
    text_of,
)
from tests.support.scripted_model import Wait, call, code, text
from tests.support.scripts import Script, Scripts
from tests.support.server_process import Family, ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

BIG = Random(7).randbytes(3_000_000)

ENDLESS = """\
kept = "from before"
open("/mnt/data/begun.txt", "w").write("begun")
print("the code runs")
while True:
    pass"""


@dataclass(slots=True)
class Witness:
    """One run as its reader saw it, before and after."""

    script: Script
    run: v1.Run
    before: list[v1.RunEvent]
    after: list[v1.RunEvent]

    @property
    def end(self) -> v1.Run:
        return self.after[-1].run


@dataclass(slots=True)
class Aftermath:
    """What was there before the kill, and what is there after it."""

    api: Api
    answering: Witness
    executing: Witness
    waiting: Witness
    #: The events of an execution that a client had asked for, before and after.
    execution_before: list[v1.ExecutionEvent]
    execution_after: list[v1.ExecutionEvent]
    #: The run of the first witness as a client of the SDK saw it, which knew of no kill.
    sdk_events: list[v1.RunEvent]
    files: list[v1.File]
    sandbox_processes: int
    left_over: list[int]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def aftermath(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aftermath]:
    settings = {"openai.base_url": scripts.base_url, "openai.max_retries": 0, "runs.lease_seconds": 300}
    with ServerProcess(tmp_path_factory.mktemp("crash"), settings) as server:
        async with Api(server.address) as api:
            files = [await api.upload(b"small", "small.txt"), await _upload(api, BIG)]
            answering = await _begin(
                api,
                scripts.add(text("The first att").then(Wait(asyncio.Event())), text("The second attempt.")),
                is_event("message.delta"),
            )
            executing = await _begin(api, scripts.add(code(ENDLESS)), prints("the code runs"))
            waiting = await _begin(
                api,
                scripts.add(call("lookup", {"word": "x"}), text("It means y.")),
                is_event("run.requires_action"),
            )
            execution_before = await _execute(api)
            with afarensis.connect(server.address, give_up_after=30) as client:
                began = asyncio.Event()
                reading = asyncio.create_task(_read_by_sdk(client, answering.run.id, began))
                await began.wait()
                family = Family(server.pid)
                server.kill()
                left_over = await asyncio.to_thread(family.left_after, 10.0)
                await asyncio.to_thread(server.start, server.address)
                async with asyncio.timeout(40):
                    sdk_events = await reading
        async with Api(server.address) as api:
            # At once, and not when the lease of the killed server would have run out.
            async with asyncio.timeout(40):
                for witness in (answering, executing):
                    witness.after = await api.events(witness.run.id, witness.before[-1].sequence)
                execution_after = await _follow_execution(api, execution_before)
            asked = (await api.settled(waiting.run)).required_action.submit_tool_outputs.tool_calls[0]
            outputs = [v1.ToolOutput(tool_call_id=asked.id, output="y")]
            await api.runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=waiting.run.id, tool_outputs=outputs))
            waiting.after = await api.events(waiting.run.id, waiting.before[-1].sequence)
            yield Aftermath(
                api,
                answering,
                executing,
                waiting,
                execution_before,
                execution_after,
                sdk_events,
                files,
                len(family),
                left_over,
            )


async def _upload(api: Api, content: bytes) -> v1.File:
    async def parts() -> AsyncIterator[v1.UploadFileRequest]:
        yield v1.UploadFileRequest(
            metadata=v1.UploadFileMetadata(filename="big.bin", purpose=v1.FILE_PURPOSE_ASSISTANTS)
        )
        for start in range(0, len(content), 1 << 20):
            yield v1.UploadFileRequest(data=content[start : start + (1 << 20)])

    return (await api.files.UploadFile(parts())).file


async def _begin(api: Api, script: Script, reached: Callable[[v1.RunEvent], bool]) -> Witness:
    run = await api.run(script.model, CODE_INTERPRETER, LOOKUP)
    return Witness(script, run, await api.until(run.id, reached), [])


async def _execute(api: Api) -> list[v1.ExecutionEvent]:
    """Run endless code in a session of its own: what is seen of it up to its first output."""
    session = await api.session()
    seen: list[v1.ExecutionEvent] = []
    call = api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=ENDLESS))
    while not (seen and seen[-1].HasField("output")):
        seen.append((await anext(aiter(call))).event)
    call.cancel()
    return seen


async def _follow_execution(api: Api, seen: list[v1.ExecutionEvent]) -> list[v1.ExecutionEvent]:
    request = v1.StreamExecutionEventsRequest(
        execution_id=seen[0].started.execution_id, after_sequence=seen[-1].sequence
    )
    return [item.event async for item in api.sessions.StreamExecutionEvents(request) if item.HasField("event")]


async def _read_by_sdk(client: afarensis.Client, run_id: str, began: asyncio.Event) -> list[v1.RunEvent]:
    loop = asyncio.get_running_loop()

    def read() -> list[v1.RunEvent]:
        seen = []
        for event in client.stream_run(run_id):
            seen.append(event)
            if event_name(event) == "message.delta":
                loop.call_soon_threadsafe(began.set)
        return seen

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("which", ["answering", "executing", "waiting"])
async def test_stream_goes_on_at_its_cursor_without_gap_or_duplicate(aftermath: Aftermath, which: str) -> None:
    witness: Witness = getattr(aftermath, which)
    seen = witness.before + witness.after
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen == await aftermath.api.stored_events(witness.run.id)


async def test_client_of_the_sdk_sees_one_stream(aftermath: Aftermath) -> None:
    assert aftermath.sdk_events == aftermath.answering.before + aftermath.answering.after


async def test_answer_that_was_cut_is_asked_for_again_and_the_run_completes(aftermath: Aftermath) -> None:
    witness = aftermath.answering
    assert witness.end.status == v1.RUN_STATUS_COMPLETED
    assert [event_name(event) for event in witness.after[:2]] == ["message.incomplete", "run.step.failed"]
    messages = await aftermath.api.messages(witness.run.thread_id)
    assert [(message.status, text_of(message)) for message in messages[1:]] == [
        (v1.MESSAGE_STATUS_INCOMPLETE, "The first att"),
        (v1.MESSAGE_STATUS_COMPLETED, "The second attempt."),
    ]
    assert messages[1].incomplete_details.reason == v1.MESSAGE_INCOMPLETE_REASON_RUN_FAILED
    # The half answer is nothing that the model said: the second call is asked the same as the first.
    first, second = witness.script.requests
    assert first.body["messages"] == second.body["messages"]


async def test_code_that_was_running_ends_its_run_with_the_reason(aftermath: Aftermath) -> None:
    run = aftermath.executing.end
    assert run.status == v1.RUN_STATUS_FAILED
    assert run.last_error.reason == "CODE_INTERRUPTED"
    assert run.last_error.code == v1.LAST_ERROR_CODE_SERVER_ERROR
    assert "The code was not run a second time." in run.last_error.message
    (step,) = await aftermath.api.steps(run)
    assert step.status == v1.RUN_STEP_STATUS_FAILED
    assert step.last_error == run.last_error


async def test_code_that_was_running_is_not_run_again(aftermath: Aftermath) -> None:
    witness = aftermath.executing
    (made,) = await aftermath.api.code_calls(witness.end)
    executions = {
        delta.code_interpreter.execution_id
        for event in witness.before + witness.after
        for delta in event.run_step_delta.tool_calls
    }
    assert executions == {"", made.execution_id}
    assert printed(made) == "the code runs\n"
    assert not made.HasField("result"), "how it would have ended, nobody knows"
    assert len(witness.script.requests) == 1


async def test_execution_that_was_running_ends_with_its_session(aftermath: Aftermath) -> None:
    seen = aftermath.execution_before + aftermath.execution_after
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    result = seen[-1].result
    assert (result.status, result.state_lost) == (v1.EXECUTION_STATUS_SESSION_LOST, True)
    request = v1.GetExecutionRequest(execution_id=seen[0].started.execution_id)
    execution = (await aftermath.api.sessions.GetExecution(request)).execution
    assert [output.output.text for output in execution.outputs if output.HasField("output")] == ["the code runs\n"]
    assert await _session_status(aftermath.api, execution.session_id) == v1.SESSION_STATUS_LOST


async def test_run_that_waited_for_its_client_takes_the_outputs(aftermath: Aftermath) -> None:
    witness = aftermath.waiting
    assert witness.end.status == v1.RUN_STATUS_COMPLETED
    assert witness.script.requests[1].tool_texts == ["y"]
    assert text_of(await aftermath.api.answer(witness.end)) == "It means y."


async def test_every_uploaded_file_is_there_byte_for_byte(aftermath: Aftermath) -> None:
    small, big = aftermath.files
    assert await aftermath.api.download(small.id) == b"small"
    assert await aftermath.api.download(big.id) == BIG
    again = (await aftermath.api.files.GetFile(v1.GetFileRequest(file_id=big.id))).file
    assert again == big
    assert again.sha256 == sha256(BIG).hexdigest()


async def test_no_sandbox_process_outlives_its_server(aftermath: Aftermath) -> None:
    # The zygote, its supervisor or pool, and the interpreter that was in an endless loop.
    assert aftermath.sandbox_processes >= 2
    assert aftermath.left_over == []


async def test_threads_are_free_again_and_their_next_run_is_told_that_variables_are_gone(
    aftermath: Aftermath, script: Callable[..., Script]
) -> None:
    thread_id = aftermath.executing.run.thread_id
    await aftermath.api.say(thread_id, "Go on.")
    next_script = script(code("print('kept' in globals())"), text("Gone."))
    run = await aftermath.api.settled(await aftermath.api.run(next_script.model, thread_id=thread_id))
    assert run.status == v1.RUN_STATUS_COMPLETED
    (made,) = await aftermath.api.code_calls(run)
    assert printed(made) == "False\n"
    assert made.state_lost
    assert "variables, imports and functions of earlier calls were gone" in next_script.requests[1].tool_texts[0]
    (interrupted,) = await aftermath.api.code_calls(aftermath.executing.run)
    statuses = [await _session_status(aftermath.api, call.session_id) for call in (interrupted, made)]
    assert statuses == [v1.SESSION_STATUS_LOST, v1.SESSION_STATUS_ACTIVE]


async def _session_status(api: Api, session_id: str) -> v1.SessionStatus.ValueType:
    return (await api.sessions.GetSession(v1.GetSessionRequest(session_id=session_id))).session.status
