"""RunService."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from afarensis import v1 as pb

from ...calls import Calls
from ...domain.events import RunEvent
from ...domain.runs import Run
from ...domain.threads import Thread
from ...errors import FieldViolation, InvalidFields, RunNotCancellable, RunNotFound
from ...events.log import Heartbeat
from ...runs.service import Runs
from ...runs.submitting import ToolOutput
from ...uninterrupted import to_the_end
from ...validation import Reason, Violations
from ..context import project
from ..convert.events import run_event_message
from ..convert.runs import run_fields, run_message, run_statuses_value, run_step_message, thread_and_run_fields
from ..convert.threads import thread_message
from ..convert.values import seconds_value
from ..disconnects import Context
from ..last import last
from ..masks import fields_to_change
from ..pages import list_page
from ..serialized import SerializedResponses
from .streams import bounded, check_cursor, check_list, heartbeat_seconds

_DEFAULT_WAIT_SECONDS = 60.0
_MAX_WAIT_SECONDS = 600.0


class RunServicer(pb.RunServiceServicer):
    """Runs assistants on threads."""

    def __init__(self, runs: Runs, calls: Calls) -> None:
        self._runs = runs
        self._calls = calls
        self._created = SerializedResponses(_created)
        self._streamed = SerializedResponses(_streamed)
        # Clients that do not stream ask until a run is over.
        self._got = SerializedResponses(_got)

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:
        return pb.CreateRunResponse(run=run_message(await self._create(request)))

    async def CreateThreadAndRun(
        self, request: pb.CreateThreadAndRunRequest, context: Context
    ) -> pb.CreateThreadAndRunResponse:
        thread, run = await self._create_with_thread(request)
        return pb.CreateThreadAndRunResponse(thread=thread_message(thread), run=run_message(run))

    async def CreateRunStream(
        self, request: pb.CreateRunStreamRequest, context: Context
    ) -> AsyncIterator[pb.CreateRunStreamResponse]:
        heartbeat = heartbeat_seconds(request)
        run: Run | None = None

        async def create() -> Run:
            nonlocal run
            run = await self._create_for_stream(request)
            return run

        try:
            # A client that leaves meanwhile would leave a run behind of which nobody knows.
            run_id = (await to_the_end(create())).id
            async with aclosing(self._runs.follow_events(project(), run_id, 0, heartbeat)) as items:
                async for item in items:
                    if isinstance(item, Heartbeat):
                        beat = pb.CreateRunStreamResponse(heartbeat=pb.Heartbeat(last_sequence=item.last_sequence))
                        yield last(beat, item.is_last)
                    else:
                        yield last(self._created.response(item), item.type.ends_run)
        except (GeneratorExit, asyncio.CancelledError):
            # A stream that the server itself ends, to shut down, can be taken up again.
            if run is not None and request.cancel_on_disconnect and not self._calls.draining:
                with suppress(RunNotCancellable, RunNotFound):
                    await self._runs.cancel(project(), run.id)
            raise

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        return self._got.response(await self._runs.get(project(), request.run_id))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        statuses = run_statuses_value(request.statuses)
        runs, token = await list_page(
            request,
            lambda page: self._runs.list(
                project(), page, request.thread_id or None, request.assistant_id or None, statuses
            ),
            run_message,
        )
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    async def UpdateRun(self, request: pb.UpdateRunRequest, context: Context) -> pb.UpdateRunResponse:
        if fields_to_change(request, request.update_mask, "run_id"):
            run = await self._runs.update(project(), request.run_id, dict(request.metadata))
        else:
            run = await self._runs.get(project(), request.run_id)
        return pb.UpdateRunResponse(run=run_message(run))

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        return pb.CancelRunResponse(run=run_message(await self._runs.cancel(project(), request.run_id)))

    async def SubmitToolOutputs(
        self, request: pb.SubmitToolOutputsRequest, context: Context
    ) -> pb.SubmitToolOutputsResponse:
        outputs = [ToolOutput(output.tool_call_id, output.output) for output in request.tool_outputs]
        run = await self._runs.submit_tool_outputs(project(), request.run_id, outputs)
        return pb.SubmitToolOutputsResponse(run=run_message(run))

    async def WaitRun(self, request: pb.WaitRunRequest, context: Context) -> pb.WaitRunResponse:
        seconds = _DEFAULT_WAIT_SECONDS
        if request.HasField("timeout"):
            found = Violations()
            seconds = min(max(seconds_value(request.timeout, "timeout", found), 0.0), _MAX_WAIT_SECONDS)
            found.check()
        return pb.WaitRunResponse(run=run_message(await self._runs.wait(project(), request.run_id, seconds)))

    async def ListRunSteps(self, request: pb.ListRunStepsRequest, context: Context) -> pb.ListRunStepsResponse:
        steps, token = await list_page(
            request, lambda page: self._runs.list_steps(project(), request.run_id, page), run_step_message
        )
        return pb.ListRunStepsResponse(run_steps=steps, next_page_token=token)

    async def GetRunStep(self, request: pb.GetRunStepRequest, context: Context) -> pb.GetRunStepResponse:
        step = await self._runs.get_step(project(), request.run_step_id)
        return pb.GetRunStepResponse(run_step=run_step_message(step))

    async def StreamRunEvents(
        self, request: pb.StreamRunEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamRunEventsResponse]:
        check_cursor(request.after_sequence)
        events = self._runs.follow_events(project(), request.run_id, request.after_sequence, heartbeat_seconds(request))
        async with aclosing(events) as items:
            async for item in items:
                if isinstance(item, Heartbeat):
                    beat = pb.StreamRunEventsResponse(heartbeat=pb.Heartbeat(last_sequence=item.last_sequence))
                    yield last(beat, item.is_last)
                else:
                    yield last(self._streamed.response(item), item.type.ends_run)

    async def ListRunEvents(self, request: pb.ListRunEventsRequest, context: Context) -> pb.ListRunEventsResponse:
        limit = check_list(request.after_sequence, request.page_size)
        page = await self._runs.list_events(project(), request.run_id, request.after_sequence, limit)
        events = bounded(page.events, run_event_message)
        return pb.ListRunEventsResponse(events=events, last_sequence=page.last_sequence, ended=page.ended)

    async def _create(self, request: pb.CreateRunRequest) -> Run:
        fields, messages = run_fields(request, "")
        return await self._runs.create(project(), request.thread_id, fields, messages, request.request_id)

    async def _create_with_thread(self, request: pb.CreateThreadAndRunRequest) -> tuple[Thread, Run]:
        new = thread_and_run_fields(request)
        return await self._runs.create_with_thread(
            project(), new.thread, new.messages, new.run, new.additional_messages, request.request_id
        )

    async def _create_for_stream(self, request: pb.CreateRunStreamRequest) -> Run:
        match request.WhichOneof("create"):
            case "run":
                return await self._create(request.run)
            case "thread_and_run":
                _, run = await self._create_with_thread(request.thread_and_run)
                return run
        text = "Missing required parameter: 'run' or 'thread_and_run'."
        raise InvalidFields([FieldViolation("run", Reason.REQUIRED, text)])


def _got(run: Run) -> pb.GetRunResponse:
    return pb.GetRunResponse(run=run_message(run))


def _created(event: RunEvent) -> pb.CreateRunStreamResponse:
    return pb.CreateRunStreamResponse(event=run_event_message(event))


def _streamed(event: RunEvent) -> pb.StreamRunEventsResponse:
    return pb.StreamRunEventsResponse(event=run_event_message(event))
