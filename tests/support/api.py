"""The contract as tests call it: the stubs of every service on one channel, and what nearly every test begins with."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from afarensis import v1

CODE_INTERPRETER = v1.Tool(code_interpreter=v1.CodeInterpreterTool())
LOOKUP = v1.Tool(
    function=v1.FunctionTool(
        name="lookup", parameters_json='{"type": "object", "properties": {"word": {"type": "string"}}}'
    )
)

#: Well below the time that a test may take, and far above what anything here takes.
_PATIENCE_SECONDS = 40.0

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Channels to one address would otherwise share a connection, also to a server that was killed meanwhile.
    ("grpc.use_local_subchannel_pool", 1),
)

#: Code that prints until it is stopped.
ENDLESS = """\
import time
kept = 41
count = 0
while True:
    count += 1
    print("line", count)
    time.sleep(0.01)"""


def direct(*blocks: str) -> str:
    """A message whose blocks `direct` runs."""
    return "\n\n".join(f"```python\n{block}\n```" for block in blocks)


class Api:
    """A connection to a server; an async context manager."""

    def __init__(self, address: str, *options: tuple[str, int]) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=(*_OPTIONS, *options))
        self.assistants = v1.AssistantServiceStub(self.channel)
        self.threads = v1.ThreadServiceStub(self.channel)
        self.runs = v1.RunServiceStub(self.channel)
        self.files = v1.FileServiceStub(self.channel)
        self.sessions = v1.SessionServiceStub(self.channel)
        self.feed = v1.EventServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.channel.close()

    # --- files --------------------------------------------------------------------------------------------------------

    async def upload(self, content: bytes, filename: str = "data.csv") -> v1.File:
        request = v1.CreateFileRequest(filename=filename, purpose=v1.FILE_PURPOSE_ASSISTANTS, content=content)
        return (await self.files.CreateFile(request)).file

    async def download(self, file_id: str) -> bytes:
        parts = [part async for part in self.files.DownloadFile(v1.DownloadFileRequest(file_id=file_id))]
        return b"".join(part.data for part in parts)

    # --- assistants, threads, runs ------------------------------------------------------------------------------------

    async def assistant(
        self, model: str = "direct", *tools: v1.Tool, file_ids: Sequence[str] = (), **fields: Any
    ) -> v1.Assistant:
        """An assistant; with the code interpreter alone when no tool is named."""
        request = v1.CreateAssistantRequest(
            model=model, tools=tools or (CODE_INTERPRETER,), tool_resources=code_files(file_ids), **fields
        )
        return (await self.assistants.CreateAssistant(request)).assistant

    async def thread(self, text: str = "Hello", attachments: Sequence[str] = ()) -> v1.Thread:
        """A thread with one message."""
        message = v1.MessageInput(text=text, attachments=[v1.MessageAttachment(file_id=item) for item in attachments])
        return (await self.threads.CreateThread(v1.CreateThreadRequest(messages=[message]))).thread

    async def say(self, thread_id: str, text: str) -> v1.Message:
        return (await self.threads.CreateMessage(v1.CreateMessageRequest(thread_id=thread_id, text=text))).message

    async def run(
        self, model: str = "direct", *tools: v1.Tool, text: str = "Hello", thread_id: str = "", **fields: Any
    ) -> v1.Run:
        """A run of a new assistant, on a new thread unless one is named."""
        assistant = await self.assistant(model, *tools)
        thread_id = thread_id or (await self.thread(text)).id
        request = v1.CreateRunRequest(thread_id=thread_id, assistant_id=assistant.id, **fields)
        return (await self.runs.CreateRun(request)).run

    async def run_code(self, code: str, thread_id: str = "", **fields: Any) -> v1.Run:
        """A run in which `direct` runs this code; on the thread it says so first."""
        text = direct(code)
        if thread_id:
            await self.say(thread_id, text)
        return await self.run(text=text, thread_id=thread_id, **fields)

    async def settled(self, run: v1.Run) -> v1.Run:
        """The run once it is terminal or waits for tool outputs."""
        request = v1.WaitRunRequest(run_id=run.id, timeout=seconds(_PATIENCE_SECONDS))
        settled = (await self.runs.WaitRun(request)).run
        assert settled.status not in (v1.RUN_STATUS_QUEUED, v1.RUN_STATUS_IN_PROGRESS, v1.RUN_STATUS_CANCELLING)
        return settled

    async def steps(self, run: v1.Run) -> Sequence[v1.RunStep]:
        """The steps of a run, oldest first."""
        request = v1.ListRunStepsRequest(run_id=run.id, order=v1.SORT_ORDER_ASCENDING, page_size=100)
        return (await self.runs.ListRunSteps(request)).run_steps

    async def code_calls(self, run: v1.Run) -> list[v1.CodeInterpreterCall]:
        """The calls of the code interpreter in a run, in order."""
        return [
            call.code_interpreter
            for step in await self.steps(run)
            for call in step.tool_calls.tool_calls
            if call.HasField("code_interpreter")
        ]

    async def messages(self, thread_id: str) -> Sequence[v1.Message]:
        """The messages of a thread, oldest first."""
        request = v1.ListMessagesRequest(thread_id=thread_id, order=v1.SORT_ORDER_ASCENDING, page_size=100)
        return (await self.threads.ListMessages(request)).messages

    async def answer(self, run: v1.Run) -> v1.Message:
        """The last message of a run."""
        return [message for message in await self.messages(run.thread_id) if message.run_id == run.id][-1]

    # --- events -------------------------------------------------------------------------------------------------------

    def follow(self, run_id: str, after: int = 0) -> AsyncGenerator[v1.RunEvent, None]:
        """The events of a run behind a cursor, until its end."""
        request = v1.StreamRunEventsRequest(run_id=run_id, after_sequence=after)
        return events_of(self.runs.StreamRunEvents(request))

    async def events(self, run_id: str, after: int = 0) -> list[v1.RunEvent]:
        return [event async for event in self.follow(run_id, after)]

    async def until(self, run_id: str, reached: Callable[[v1.RunEvent], bool]) -> list[v1.RunEvent]:
        """The events of a run up to the first one of this kind."""
        seen = []
        async with aclosing(self.follow(run_id)) as events:
            async for event in events:
                seen.append(event)
                if reached(event):
                    return seen
        raise AssertionError(f"the run ended before: {[event_name(event) for event in seen]}")

    async def stored_events(self, run_id: str) -> list[v1.RunEvent]:
        """All events of a run that are stored, page by page."""
        stored: list[v1.RunEvent] = []
        while True:
            after = stored[-1].sequence if stored else 0
            page = await self.runs.ListRunEvents(
                v1.ListRunEventsRequest(run_id=run_id, after_sequence=after, page_size=1_000)
            )
            stored += page.events
            if not page.events or page.events[-1].sequence == page.last_sequence:
                return stored

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def session(self, **fields: Any) -> v1.Session:
        return (await self.sessions.CreateSession(v1.CreateSessionRequest(**fields))).session

    async def execute(self, session_id: str, code: str, **fields: Any) -> list[v1.ExecutionEvent]:
        """Run code in a session: all its events."""
        request = v1.ExecuteRequest(session_id=session_id, code=code, **fields)
        return [item.event async for item in self.sessions.Execute(request) if item.HasField("event")]


async def events_of(call: Any) -> AsyncGenerator[v1.RunEvent, None]:
    """The events among the items of a stream; closing it drops the stream."""
    try:
        async for item in call:
            if item.HasField("event"):
                yield item.event
    finally:
        call.cancel()


def seconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


def code_files(file_ids: Sequence[str]) -> v1.ToolResources:
    return v1.ToolResources(code_interpreter=v1.CodeInterpreterResources(file_ids=file_ids))


# --- what events and outputs say --------------------------------------------------------------------------------------


def event_name(event: v1.RunEvent) -> str:
    """The type as the Assistants API writes it, without ``thread.`` before: ``run.step.delta``."""
    name = v1.RunEventType.Name(event.type).removeprefix("RUN_EVENT_TYPE_THREAD_").lower()
    for prefix in ("run_step_", "run_", "message_"):
        if name.startswith(prefix):
            return prefix.replace("_", ".") + name.removeprefix(prefix)
    return f"thread.{name}"


def is_event(name: str) -> Callable[[v1.RunEvent], bool]:
    return lambda event: event_name(event) == name


def prints(text: str) -> Callable[[v1.RunEvent], bool]:
    """Whether an event brings this output of code."""
    return lambda event: text in printed_by(event)


def printed_by(event: v1.RunEvent) -> str:
    return "".join(
        output.output.text
        for call in event.run_step_delta.tool_calls
        for output in call.code_interpreter.outputs
        if output.HasField("output")
    )


def printed(call: v1.CodeInterpreterCall) -> str:
    """All that code printed, as its step keeps it."""
    return "".join(output.output.text for output in call.outputs if output.HasField("output"))


def text_of(message: v1.Message) -> str:
    return "".join(part.text.value for part in message.content if part.HasField("text"))


def result_of(events: Sequence[v1.ExecutionEvent]) -> v1.ExecutionResult:
    """How an execution ended: its last event."""
    assert events[-1].HasField("result"), events[-1]
    return events[-1].result


def output_of(events: Sequence[v1.ExecutionEvent]) -> str:
    """All that an execution printed."""
    return "".join(event.output.text for event in events if event.HasField("output"))


# --- what refusals say ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Refusal:
    """How a call was refused."""

    code: grpc.StatusCode | None = None
    message: str = ""
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: The field and the reason of each violation, in order, and what is said about it.
    violations: list[tuple[str, str]] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    #: When to try again; None when nothing was said about it.
    retry_seconds: float | None = None


@contextmanager
def refused(code: grpc.StatusCode, reason: str, message: str | None = None) -> Iterator[Refusal]:
    """Expect a call to be refused like this; the rest of what was said is in the value, afterwards."""
    refusal = Refusal()
    try:
        yield refusal
    except grpc.aio.AioRpcError as error:
        read_refusal(error, refusal)
    else:
        raise AssertionError(f"not refused, although {code.name} {reason} was expected")
    assert (refusal.code, refusal.reason, refusal.domain) == (code, reason, "afarensis.dev"), refusal
    if message is not None:
        assert refusal.message == message


def read_refusal(error: grpc.aio.AioRpcError, refusal: Refusal) -> None:
    refusal.code, refusal.message = error.code(), error.details() or ""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:  # type: ignore[arg-type]  # bytes, as its name ends in -bin
                _read_detail(detail, refusal)


def _read_detail(detail: Any, refusal: Refusal) -> None:
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    if detail.Unpack(info):
        refusal.reason, refusal.domain, refusal.metadata = info.reason, info.domain, dict(info.metadata)
    elif detail.Unpack(bad_request):
        refusal.violations = [(violation.field, violation.reason) for violation in bad_request.field_violations]
        refusal.descriptions = [violation.description for violation in bad_request.field_violations]
    elif detail.Unpack(retry):
        refusal.retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
