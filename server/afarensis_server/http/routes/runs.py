"""Runs and run steps below /v1/threads."""

from starlette.responses import Response

from ...domain.runs import Run, RunStatus, RunStep
from ...errors import RunNotFound, RunStepNotFound
from ...ids import Prefix
from ...runs.service import Runs
from ...runs.submitting import ToolOutput
from ..convert.runs import run_fields, run_json, step_json
from ..convert.threads import thread_fields
from ..endpoint import Call, JsonResponse
from ..fields import Fields
from ..lists import page_json, page_request
from ..streams import resumed, stream_from, stream_run
from .table import Table
from .threads import metadata_alone

_WAITS = frozenset({RunStatus.QUEUED, RunStatus.IN_PROGRESS, RunStatus.CANCELLING})


class RunRoutes:
    """Args: ``heartbeat_seconds``: the longest silence of a stream; ``poll_ms``: how soon to look at a run again."""

    def __init__(self, runs: Runs, *, heartbeat_seconds: float, poll_ms: int) -> None:
        self._runs = runs
        self._heartbeat_seconds = heartbeat_seconds
        self._poll_ms = poll_ms

    def add(self, table: Table) -> None:
        run = "/threads/{thread_id}/runs/{run_id}"
        table.add("/threads/runs", POST=self._create_with_thread)
        table.add("/threads/{thread_id}/runs", GET=self._list, POST=self._create)
        table.add(run, GET=self._get, POST=self._update)
        table.add(f"{run}/cancel", POST=self._cancel)
        table.add(f"{run}/submit_tool_outputs", POST=self._submit)
        table.add(f"{run}/events", GET=self._follow)
        table.add(f"{run}/steps", GET=self._list_steps)
        table.add(f"{run}/steps/{{step_id}}", GET=self._get_step)

    async def _create(self, call: Call) -> Response:
        body = await call.body()
        thread_id = call.path("thread_id")
        is_streamed = _is_streamed(call, body)
        if is_streamed and (stream := await resumed(call, self._runs, self._heartbeat_seconds, thread_id)) is not None:
            return stream
        fields, messages = run_fields(body)
        body.finish()
        body.found.check()
        run = await self._runs.create(call.project, thread_id, fields, messages, call.request_id)
        return self._stream(call, run) if is_streamed else self._answer(call, run)

    async def _create_with_thread(self, call: Call) -> Response:
        body = await call.body()
        is_streamed = _is_streamed(call, body)
        if is_streamed and (stream := await resumed(call, self._runs, self._heartbeat_seconds)) is not None:
            return stream
        thread = body.nested("thread") or Fields({}, body.found)
        # The run's own tool_resources are the thread's: the original took them here, too.
        shared = body.nested("tool_resources")
        thread_given, messages = thread_fields(thread, messages=True)
        if shared is not None and "tool_resources" not in thread_given:
            given, _ = thread_fields(Fields({"tool_resources": body.raw("tool_resources")}, body.found), messages=False)
            thread_given |= given
        fields, additional = run_fields(body)
        body.finish()
        body.found.check()
        _, run = await self._runs.create_with_thread(
            call.project, thread_given, messages, fields, additional, call.request_id, under=""
        )
        return self._stream(call, run) if is_streamed else self._answer(call, run)

    async def _get(self, call: Call) -> Response:
        return self._answer(call, await self._run(call))

    async def _list(self, call: Call) -> Response:
        wanted = page_request(call, Prefix.RUN)
        page = await self._runs.list(call.project, wanted, call.path("thread_id"))
        return JsonResponse(page_json(page, lambda run: run_json(run, call.shape)))

    async def _update(self, call: Call) -> Response:
        metadata = metadata_alone(await call.body())
        run = await self._run(call)
        if metadata is not None:
            run = await self._runs.update(call.project, run.id, metadata)
        return self._answer(call, run)

    async def _cancel(self, call: Call) -> Response:
        run = await self._run(call)
        return self._answer(call, await self._runs.cancel(call.project, run.id))

    async def _submit(self, call: Call) -> Response:
        body = await call.body()
        is_streamed = _is_streamed(call, body)
        given = body.objects("tool_outputs")
        if given is None:
            body.required("tool_outputs")
        outputs = [_output_value(output) for output in given or ()]
        body.finish()
        body.found.check()
        run = await self._run(call)
        # Who asks again has the outputs taken only if they were not before.
        if is_streamed and run.status is not RunStatus.REQUIRES_ACTION:
            stream = await resumed(call, self._runs, self._heartbeat_seconds, run.thread_id)
            if stream is not None:
                return stream
        # What happens from here on is what the client is told.
        last = await self._runs.last_sequence(call.project, run.id)
        run = await self._runs.submit_tool_outputs(call.project, run.id, outputs)
        if is_streamed:
            return await stream_from(call, self._runs, run, last, self._heartbeat_seconds)
        return self._answer(call, run)

    async def _follow(self, call: Call) -> Response:
        call.becomes_stream()
        run = await self._run(call)
        last = call.last_event
        after_sequence = last[1] if last is not None and last[0] == run.id else 0
        return await stream_from(call, self._runs, run, after_sequence, self._heartbeat_seconds)

    async def _list_steps(self, call: Call) -> Response:
        run = await self._run(call)
        wanted = page_request(call, Prefix.STEP)
        return JsonResponse(page_json(await self._runs.list_steps(call.project, run.id, wanted), step_json))

    async def _get_step(self, call: Call) -> Response:
        await self._run(call)
        return JsonResponse(step_json(await self._find_step(call, call.path("step_id"))))

    def _answer(self, call: Call, run: Run) -> Response:
        headers = {"openai-poll-after-ms": str(self._poll_ms)} if run.status in _WAITS else None
        return JsonResponse(run_json(run, call.shape), headers=headers)

    def _stream(self, call: Call, run: Run) -> Response:
        return stream_run(call, self._runs, run.id, self._heartbeat_seconds)

    async def _run(self, call: Call) -> Run:
        return await self._find(call, call.path("run_id"))

    async def _find(self, call: Call, run_id: str) -> Run:
        run = await self._runs.get(call.project, run_id)
        if run.thread_id != call.path("thread_id"):
            raise RunNotFound(id=run_id)
        return run

    async def _find_step(self, call: Call, step_id: str) -> RunStep:
        step = await self._runs.get_step(call.project, step_id)
        if step.run_id != call.path("run_id"):
            raise RunStepNotFound(id=step_id)
        return step


def _is_streamed(call: Call, body: Fields) -> bool:
    """Whether the answer is a stream, for which the call has its place then. Raises ShuttingDown, TooManyCalls."""
    if not body.boolean("stream"):
        return False
    call.becomes_stream()
    return True


def _output_value(fields: Fields) -> ToolOutput:
    output = ToolOutput(fields.string("tool_call_id") or "", fields.string("output") or "")
    fields.finish()
    return output
