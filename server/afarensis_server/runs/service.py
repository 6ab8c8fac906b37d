"""What clients may do with runs."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import Connection

from ..clock import now
from ..domain.events import EventDraft, EventType, RunEvent
from ..domain.runs import FunctionCall, Run, RunStatus, RunStep, StepStatus, ToolCalls
from ..domain.threads import Thread
from ..errors import (
    AssistantNotFound,
    RunNotAwaitingToolOutputs,
    RunNotCancellable,
    RunNotFound,
    RunStepNotFound,
    ThreadHasActiveRun,
    ThreadNotFound,
    ToolOutputsMismatch,
)
from ..events.kinds import RunLog
from ..events.log import Heartbeat, LogPage
from ..files.lookup import require_files
from ..sessions.service import Sessions
from ..store import assistants, queue, requests, runs, steps, threads
from ..store.database import Database
from ..store.pages import Page, PageRequest
from ..store.writer import Transaction
from ..threads.service import MessageFields, ThreadFields, Threads
from ..validation import Violations, check_metadata, check_request_id
from .closing import Unfinished, close_run
from .engine import RunEngine
from .fields import RunFields, RunLimits, build_run, check_run, check_tool_choice
from .moves import move_run, store_step
from .states import IllegalTransition, advance_step


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What the client's function returned for one call."""

    call_id: str
    output: str


#: Where nobody works on a run, and its rows hold all of it.
_IDLE = frozenset({RunStatus.QUEUED, RunStatus.REQUIRES_ACTION})
#: How long the deletion of a thread waits for its run to end.
_CANCEL_SECONDS = 30.0


class Runs:
    """Runs of all threads.

    Args:
        database: where they are kept.
        log: where their events are kept.
        threads_service: makes the messages that a run brings along.
        sessions: where code runs.
        engine: works on the runs that are queued here.
        limits: what clients may ask for.
        check_model: raises ModelUnknown for a model that the server does not have.
    """

    def __init__(
        self,
        database: Database,
        log: RunLog,
        threads_service: Threads,
        sessions: Sessions,
        engine: RunEngine,
        limits: RunLimits,
        check_model: Callable[[str], None],
    ) -> None:
        self._database = database
        self._log = log
        self._threads = threads_service
        self._sessions = sessions
        self._engine = engine
        self._limits = limits
        self._check_model = check_model

    # --- creating -----------------------------------------------------------------------------------------------------

    async def create(
        self,
        project: str,
        thread_id: str,
        fields: RunFields,
        additional_messages: Sequence[MessageFields] = (),
        request_id: str = "",
    ) -> Run:
        """Queue a run on a thread. The thread is locked until the run is terminal.

        Raises InvalidFields, ThreadNotFound, AssistantNotFound, FileNotFound, ThreadHasActiveRun, RequestIdReused.
        """
        violations = Violations(self._limits.shared)
        violations.string("thread_id", thread_id, required=True)
        self._check(violations, fields, additional_messages, request_id)
        violations.check()

        def create(tx: Transaction) -> str:
            thread = threads.get(tx.connection, project, thread_id)
            if thread is None:
                raise ThreadNotFound(id=thread_id)
            return self._insert(tx, project, thread, fields, additional_messages, []).id

        run_id = await self._once(project, "CreateRun", request_id, (thread_id, fields, additional_messages), create)
        return await self.get(project, run_id)

    async def create_with_thread(
        self,
        project: str,
        thread_fields: ThreadFields,
        messages: Sequence[MessageFields],
        fields: RunFields,
        additional_messages: Sequence[MessageFields] = (),
        request_id: str = "",
    ) -> tuple[Thread, Run]:
        """Create a thread with its messages and queue a run on it: all of it or nothing."""
        violations = Violations(self._limits.shared)
        self._threads.check_new(violations.under("thread"), thread_fields, messages)
        self._check(violations.under("run"), fields, additional_messages, "")
        check_request_id(violations, request_id)
        violations.check()

        def create(tx: Transaction) -> str:
            thread = self._threads.insert_new(tx, project, thread_fields, messages, prefix="thread.")
            told = [EventDraft(EventType.THREAD_CREATED, thread)]
            return self._insert(tx, project, thread, fields, additional_messages, told).id

        content = (thread_fields, messages, fields, additional_messages)
        run_id = await self._once(project, "CreateThreadAndRun", request_id, content, create)
        run = await self.get(project, run_id)
        return await self._threads.get(project, run.thread_id), run

    def _check(
        self,
        violations: Violations,
        fields: RunFields,
        additional_messages: Sequence[MessageFields],
        request_id: str,
    ) -> None:
        check_run(violations, fields, self._limits)
        violations.count("additional_messages", additional_messages, maximum=self._limits.additional_messages)
        for index, message in enumerate(additional_messages[: self._limits.additional_messages]):
            self._threads.check_message(violations.under(f"additional_messages[{index}]"), message)
        check_request_id(violations, request_id)

    def _insert(
        self,
        tx: Transaction,
        project: str,
        thread: Thread,
        fields: RunFields,
        additional_messages: Sequence[MessageFields],
        told: list[EventDraft],
    ) -> Run:
        assistant = assistants.get(tx.connection, project, fields["assistant_id"])
        if assistant is None:
            raise AssistantNotFound(id=fields["assistant_id"])
        if (active := runs.active_for_thread(tx.connection, project, thread.id)) is not None:
            raise ThreadHasActiveRun(thread_id=thread.id, run_id=active.id)
        if additional_messages:
            thread = self._threads.insert_messages(tx, thread, additional_messages)
        run = build_run(project, thread, assistant, fields, self._limits, now())
        self._check_model(run.model)
        violations = Violations(self._limits.shared)
        check_tool_choice(violations, run)
        violations.check()
        # Fail early: a file that was deleted since would only end the run later.
        require_files(tx.connection, project, run.tool_resources.code_interpreter_file_ids, run.create_time)
        runs.insert(tx.connection, run)
        queue.enqueue(tx.connection, run)
        told += [EventDraft(EventType.RUN_CREATED, run), EventDraft(EventType.RUN_QUEUED, run)]
        self._log.append(tx, project, run.id, told)
        tx.after_commit(self._engine.wake)
        return run

    async def _once(
        self,
        project: str,
        method: str,
        request_id: str,
        content: object,
        create: Callable[[Transaction], str],
    ) -> str:
        fingerprint = requests.fingerprint_of(content)
        return await self._database.write(
            lambda tx: requests.once(tx, project, method, request_id, fingerprint, lambda: create(tx))
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, project: str, run_id: str) -> Run:
        """The run as it stands. Raises RunNotFound."""
        return await self._database.look(lambda connection: _require(connection, project, run_id))

    async def list(
        self,
        project: str,
        page: PageRequest,
        thread_id: str | None = None,
        assistant_id: str | None = None,
        statuses: Sequence[RunStatus] = (),
    ) -> Page[Run]:
        """Runs of a project, or of one thread. Raises ThreadNotFound, PageTokenInvalid."""

        def read(connection: Connection) -> Page[Run]:
            if thread_id is not None and threads.get(connection, project, thread_id) is None:
                raise ThreadNotFound(id=thread_id)
            return runs.list_page(
                connection, project, page, thread_id=thread_id, assistant_id=assistant_id, statuses=statuses
            )

        return await self._database.read(read)

    async def list_steps(self, project: str, run_id: str, page: PageRequest) -> Page[RunStep]:
        """The steps of a run. Raises RunNotFound, PageTokenInvalid."""

        def read(connection: Connection) -> Page[RunStep]:
            _require(connection, project, run_id)
            return steps.list_page(connection, project, page, run_id=run_id)

        return await self._database.read(read)

    async def get_step(self, project: str, step_id: str) -> RunStep:
        """One step. Raises RunStepNotFound."""
        step = await self._database.look(lambda connection: steps.get(connection, project, step_id))
        if step is None:
            raise RunStepNotFound(id=step_id)
        return step

    async def wait(self, project: str, run_id: str, timeout_seconds: float) -> Run:
        """The run once it is terminal or waits for tool outputs, or as it stands when the time is over."""
        run = await self.get(project, run_id)
        if _is_settled(run):
            return run
        last = await self._log.last_sequence(project, run_id)
        try:
            async with asyncio.timeout(timeout_seconds):
                async with aclosing(self._log.follow(project, run_id, last, timeout_seconds + 1)) as items:
                    async for item in items:
                        # The row may have moved between reading it and following the log: look at the first item, too.
                        if isinstance(item, Heartbeat) or isinstance(item.payload, Run):
                            run = await self.get(project, run_id)
                            if _is_settled(run):
                                return run
        except TimeoutError:
            pass
        return await self.get(project, run_id)

    async def follow_events(
        self, project: str, run_id: str, after_sequence: int, heartbeat_seconds: float
    ) -> AsyncGenerator[RunEvent | Heartbeat, None]:
        """The events of a run behind a cursor: stored ones, then live ones, until the run is over.

        Raises RunNotFound, CursorPastEnd, ShuttingDown.
        """
        await self.get(project, run_id)
        async with aclosing(self._log.follow(project, run_id, after_sequence, heartbeat_seconds)) as items:
            async for item in items:
                yield item

    async def list_events(self, project: str, run_id: str, after_sequence: int, limit: int) -> LogPage[RunEvent]:
        """Stored events behind a cursor, at most this many. Raises RunNotFound, CursorPastEnd."""
        return await self._log.page(project, run_id, after_sequence, limit)

    # --- changing -----------------------------------------------------------------------------------------------------

    async def update(self, project: str, run_id: str, metadata: Mapping[str, str]) -> Run:
        """Replace the metadata. Raises InvalidFields, RunNotFound."""
        violations = Violations(self._limits.shared)
        check_metadata(violations, "metadata", metadata)
        violations.check()

        def work(tx: Transaction) -> Run:
            runs.set_metadata(tx.connection, project, run_id, metadata)
            return _require(tx.connection, project, run_id)

        return await self._database.write(work)

    async def cancel(self, project: str, run_id: str) -> Run:
        """Ask a run to stop; one that nobody works on is cancelled at once. Repeating it changes nothing.

        Raises RunNotFound, RunNotCancellable.
        """

        def work(tx: Transaction) -> Run:
            run = _require(tx.connection, project, run_id)
            # With the commit: whoever asked may be gone by then.
            tx.after_commit(partial(self._engine.cancel, run_id))
            if run.status is RunStatus.CANCELLING:
                return run
            events: list[EventDraft] = []
            try:
                cancelling = move_run(tx, events, run, RunStatus.CANCELLING)
            except IllegalTransition:
                raise RunNotCancellable(status=run.status) from None
            if run.status in _IDLE and not self._is_held(tx.connection, run_id):
                # Here and now: all workers may be busy, and nobody else would come.
                cancelling = close_run(tx, events, cancelling, RunStatus.CANCELLED, unfinished=Unfinished())
            self._log.append(tx, project, run_id, events)
            return cancelling

        run = await self._database.write(work)
        if run.status.is_terminal or await self._database.read(lambda connection: self._is_held(connection, run_id)):
            return run  # ended, or its worker ends it
        return await self._engine.end_idle(run, RunStatus.CANCELLED) or await self.get(project, run_id)

    def _is_held(self, connection: Connection, run_id: str) -> bool:
        """Whether a worker has the run. One of this server has it, too, if its lease ran out and nobody came."""
        return self._engine.works_on(run_id) or queue.is_held(connection, run_id, now())

    async def delete_thread(self, project: str, thread_id: str) -> None:
        """Delete a thread with all that belongs to it; its run is cancelled and its session ended first.

        Raises ThreadNotFound.
        """
        await self._threads.get(project, thread_id)  # another project's is not there, and nothing of it may end
        active = await self._database.read(lambda connection: runs.active_for_thread(connection, project, thread_id))
        if active is not None:
            with suppress(RunNotCancellable):  # it ended by itself meanwhile
                await self.cancel(project, active.id)
            await self.wait(project, active.id, _CANCEL_SECONDS)
        await self._sessions.close_thread(thread_id)
        await self._threads.delete(project, thread_id)
        if active is not None:
            self._log.deleted(project, active.id)

    async def submit_tool_outputs(self, project: str, run_id: str, outputs: Sequence[ToolOutput]) -> Run:
        """Give the outputs of all the functions that a run waits for; it is queued again.

        Raises InvalidFields, RunNotFound, RunNotAwaitingToolOutputs, ToolOutputsMismatch.
        """
        violations = Violations(self._limits.shared)
        for index, output in enumerate(outputs):
            field = f"tool_outputs[{index}].output"
            violations.string(field, output.output, maximum=self._limits.tool_output_characters)
        violations.check()
        return await self._database.write(lambda tx: self._submit(tx, project, run_id, outputs))

    def _submit(self, tx: Transaction, project: str, run_id: str, outputs: Sequence[ToolOutput]) -> Run:
        run = _require(tx.connection, project, run_id)
        if run.status is not RunStatus.REQUIRES_ACTION or run.required_action is None:
            raise RunNotAwaitingToolOutputs(status=run.status)
        expected = [call.id for call in run.required_action.calls]
        if sorted(expected) != sorted(output.call_id for output in outputs):
            raise ToolOutputsMismatch(expected=expected, actual=[output.call_id for output in outputs])
        answers = {output.call_id: output.output for output in outputs}
        told: list[EventDraft] = []
        moment = now()
        for step in steps.list_of_run(tx.connection, project, run_id):
            if step.status is StepStatus.IN_PROGRESS and isinstance(step.details, ToolCalls):
                details = ToolCalls(
                    tuple(
                        replace(call, output=answers[call.id])
                        if isinstance(call, FunctionCall) and call.id in answers
                        else call
                        for call in step.details.calls
                    )
                )
                closed, event = advance_step(step, StepStatus.COMPLETED, moment, details, usage=step.usage)
                store_step(tx, closed)
                told.append(event)
        queued = move_run(tx, told, run, RunStatus.QUEUED)
        queue.enqueue(tx.connection, queued)
        self._log.append(tx, project, run_id, told)
        tx.after_commit(self._engine.wake)
        return queued


def _require(connection: Connection, project: str, run_id: str) -> Run:
    run = runs.get(connection, project, run_id)
    if run is None:
        raise RunNotFound(id=run_id)
    return run


def _is_settled(run: Run) -> bool:
    return run.status.is_terminal or run.status is RunStatus.REQUIRES_ACTION
