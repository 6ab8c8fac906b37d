"""One request_id, twenty calls at the same time: one thing is created, and all twenty are told of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from afarensis import v1
from tests.support.api import LOOKUP, Api, is_event, text_of
from tests.support.scripted_model import Pause, call, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = 20

Add = Callable[..., Script]
#: Makes one call with a request_id, and tells what it says to have created.
Create = Callable[[str], Awaitable[str]]


async def at_once(create: Create, request_id: str) -> str:
    """Create twenty times; the one id that all of them were told."""
    (created,) = set(await asyncio.gather(*(create(request_id) for _ in range(CALLS))))
    return created


async def test_assistant(api: Api) -> None:
    async def create(request_id: str) -> str:
        request = v1.CreateAssistantRequest(request_id=request_id, model="direct", name="one of twenty")
        return (await api.assistants.CreateAssistant(request)).assistant.id

    made = await at_once(create, "twenty assistants")
    listed = (await api.assistants.ListAssistants(v1.ListAssistantsRequest(page_size=100))).assistants
    assert [assistant.id for assistant in listed if assistant.name == "one of twenty"] == [made]


async def test_thread_with_its_messages(api: Api) -> None:
    async def create(request_id: str) -> str:
        request = v1.CreateThreadRequest(request_id=request_id, messages=[v1.MessageInput(text="One")])
        return (await api.threads.CreateThread(request)).thread.id

    made = await at_once(create, "twenty threads")
    assert len(await api.messages(made)) == 1


async def test_message(api: Api) -> None:
    thread = await api.thread("Before")

    async def create(request_id: str) -> str:
        request = v1.CreateMessageRequest(request_id=request_id, thread_id=thread.id, text="Once")
        return (await api.threads.CreateMessage(request)).message.id

    made = await at_once(create, "twenty messages")
    assert [message.id for message in await api.messages(thread.id) if text_of(message) == "Once"] == [made]


async def test_run(api: Api, script: Add) -> None:
    asked = script(text("Once"), text("Twice"))
    assistant, thread = await api.assistant(asked.model), await api.thread()

    async def create(request_id: str) -> str:
        request = v1.CreateRunRequest(request_id=request_id, thread_id=thread.id, assistant_id=assistant.id)
        return (await api.runs.CreateRun(request)).run.id

    made = await at_once(create, "twenty runs")
    await api.events(made)
    assert await _runs_of(api, thread.id) == [made]
    assert len(asked.requests) == 1


async def test_thread_and_run(api: Api, script: Add) -> None:
    asked = script(text("Once"), text("Twice"))
    assistant = await api.assistant(asked.model)

    async def create(request_id: str) -> str:
        request = v1.CreateThreadAndRunRequest(
            request_id=request_id,
            thread=v1.CreateThreadRequest(messages=[v1.MessageInput(text="Hello")]),
            run=v1.CreateRunRequest(assistant_id=assistant.id),
        )
        return (await api.runs.CreateThreadAndRun(request)).run.id

    made = await at_once(create, "twenty threads and runs")
    await api.events(made)
    listed = (await api.runs.ListRuns(v1.ListRunsRequest(assistant_id=assistant.id))).runs
    assert [run.id for run in listed] == [made]
    assert len(asked.requests) == 1


async def test_run_with_its_stream(api: Api, script: Add) -> None:
    asked = script(text("On").then(Pause(0.05)).then(*text("ce").steps), text("Twice"))
    assistant, thread = await api.assistant(asked.model), await api.thread()
    streams: list[list[v1.RunEvent]] = []

    async def create(request_id: str) -> str:
        run = v1.CreateRunRequest(request_id=request_id, thread_id=thread.id, assistant_id=assistant.id)
        call = api.runs.CreateRunStream(v1.CreateRunStreamRequest(run=run))
        streams.append([item.event async for item in call if item.HasField("event")])
        return streams[-1][0].run.id

    made = await at_once(create, "twenty run streams")
    assert await _runs_of(api, thread.id) == [made]
    stored = await api.stored_events(made)
    assert all(seen == stored for seen in streams), "each of them saw all of it"
    assert len(asked.requests) == 1


@pytest.mark.parametrize("is_streamed", [False, True], ids=["CreateFile", "UploadFile"])
async def test_file(api: Api, is_streamed: bool) -> None:
    name = f"one of twenty {is_streamed}.txt"

    async def create(request_id: str) -> str:
        if not is_streamed:
            request = v1.CreateFileRequest(
                request_id=request_id, filename=name, purpose=v1.FILE_PURPOSE_ASSISTANTS, content=b"once"
            )
            return (await api.files.CreateFile(request)).file.id
        return (await api.files.UploadFile(parts(request_id))).file.id

    async def parts(request_id: str) -> AsyncIterator[v1.UploadFileRequest]:
        head = v1.UploadFileMetadata(request_id=request_id, filename=name, purpose=v1.FILE_PURPOSE_ASSISTANTS)
        yield v1.UploadFileRequest(metadata=head)
        for part in (b"on", b"ce"):
            yield v1.UploadFileRequest(data=part)

    made = await at_once(create, f"twenty files {is_streamed}")
    listed = (await api.files.ListFiles(v1.ListFilesRequest(page_size=100))).files
    assert [file.id for file in listed if file.filename == name] == [made]
    assert await api.download(made) == b"once"


async def test_session(api: Api) -> None:
    async def create(request_id: str) -> str:
        return (await api.session(request_id=request_id, name="one of twenty")).id

    made = await at_once(create, "twenty sessions")
    listed = (await api.sessions.ListSessions(v1.ListSessionsRequest(page_size=100))).sessions
    assert [session.id for session in listed if session.name == "one of twenty"] == [made]


async def test_execution(api: Api) -> None:
    session = await api.session()

    async def create(request_id: str) -> str:
        events = await api.execute(session.id, "print(open('/mnt/data/n', 'a').write('.'))", request_id=request_id)
        return events[0].started.execution_id

    await at_once(create, "twenty executions")
    (shown,) = [
        event.output.text
        for event in await api.execute(session.id, "print(len(open('/mnt/data/n').read()))")
        if event.HasField("output")
    ]
    assert shown == "1\n", "the code ran once"


async def test_tool_outputs(api: Api, script: Add) -> None:

    asked = script(call("lookup", {"word": "x"}), text("Once"), text("Twice"))
    run = await api.settled(await api.run(asked.model, LOOKUP))
    (waiting,) = run.required_action.submit_tool_outputs.tool_calls
    outputs = [v1.ToolOutput(tool_call_id=waiting.id, output="y")]

    async def submit(_: str) -> str:
        request = v1.SubmitToolOutputsRequest(run_id=run.id, tool_outputs=outputs)
        return (await api.runs.SubmitToolOutputs(request)).run.id

    await at_once(submit, "")
    events = await api.events(run.id)
    assert [is_event("run.queued")(event) for event in events].count(True) == 2
    assert len(asked.requests) == 2


async def _runs_of(api: Api, thread_id: str) -> list[str]:
    return [run.id for run in (await api.runs.ListRuns(v1.ListRunsRequest(thread_id=thread_id))).runs]
