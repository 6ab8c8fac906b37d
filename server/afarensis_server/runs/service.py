"""What clients may do with runs."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from ..clock import now
from ..domain.events import EventDraft, EventType, RunEvent
from ..domain.runs import Run, RunStatus, RunStep
from ..domain.threads import Thread
from ..domain.tools import ToolResources
from ..errors import (
    AssistantNotFound,
    RunNotAwaitingToolOutputs,
    RunNotCancellable,
    RunNotFound,
    RunStepNotFound,
    TenantRunLimit,
    ThreadHasActiveRun,
    ThreadNotFound,
)
from ..events.kinds import RunLog
from ..events.log import Heartbeat, LogPage
from ..files.lookup import find_files
from ..sessions.service import Sessions
from ..store import assistants, queue, requests, runs, steps, threads
from ..store.database import Database
from ..store.pages import Page, PageRequest
from ..store.writer import Transaction
from ..threads.service import MessageFields, ThreadFields, Threads
from ..uninterrupted import to_the_end
from ..validation import Violations, check_metadata, check_request_id
from .closing import Unfinished, close_run
from .engine import RunEngine
from .fields import RunFields, RunLimits, build_run, check_run, check_tool_choice
from .moves import move_run
from .states import IllegalTransition
from .submitting import ToolOutput, submit

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

        Raises InvalidFields, ThreadNotFound, AssistantNotFound, FileNotFound, ThreadHasActiveRun, TenantRunLimit,
        RequestIdReused.
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
        *,
        under: str = "run",
    ) -> tuple[Thread, Run]:
        """Create a thread with its messages and queue a run on it: all of it or nothing.

        ``under`` is the path of the run's fields, in the words of its violations.
        """
        violations = Violations(self._limits.shared)
        self._threads.check_new(violations.under("thread"), thread_fields, messages)
        self._check(violations.under(under) if under else violations, fields, additional_messages, "")
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
        most = self._limits.per_project
        if most and runs.count_active(tx.connection, project, most) >= most:
            raise TenantRunLimit(limit=most)
        if additional_messages:
            thread = self._threads.insert_messages(tx, thread, additional_messages)
        run = build_run(project, thread, assistant, fields, self._limits, now())
        self._check_model(run.model)
        violations = Violations(self._limits.shared)
        check_tool_choice(violations, run)
        violations.check()
        # Without what was deleted since it was given to the assistant or the thread.
        left = find_files(tx.connection, project, run.tool_resources.code_interpreter_file_ids, run.create_time)
        run = replace(run, tool_resources=ToolResources(tuple(left)))
        runs.insert(tx.connection, run)
        queue.enqueue(tx.connection, run)
        told += [EventDraft(EventType.RUN_CREATED, run), EventDraft(EventType.RUN_QUEUED, run)]
        self._log.append(tx, project, run.id, told)
        tx.after_commit(partial(self._engine.wake, run.expire_time))
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

    async def last_sequence(self, project: str, run_id: str) -> int:
        """The sequence of a run's last event. Raises RunNotFound."""
        return await self._log.last_sequence(project, run_id)

    async def waits_at(self, project: str, run_id: str, sequence: int) -> bool:
        """Whether a run waits for tool outputs, and this is its last event. Raises RunNotFound."""
        run = await self.get(project, run_id)
        # In this order: what was last still is, so that the run had not gone on when it was read.
        return run.status is RunStatus.REQUIRES_ACTION and sequence == await self.last_sequence(project, run_id)

    async def follow_events(
        self, project: str, run_id: str, after_sequence: int, heartbeat_seconds: float
    ) -> AsyncGenerator[RunEvent | Heartbeat, None]:
        """The events of a run behind a cursor: stored ones, then live ones, until the run is over.

        Raises RunNotFound, CursorPastEnd, EventsTrimmed, ShuttingDown.
        """
        await self.get(project, run_id)
        async with aclosing(self._log.follow(project, run_id, after_sequence, heartbeat_seconds)) as items:
            async for item in items:
                yield item

    async def list_events(self, project: str, run_id: str, after_sequence: int, limit: int) -> LogPage[RunEvent]:
        """Stored events behind a cursor, at most this many. Raises RunNotFound, CursorPastEnd, EventsTrimmed."""
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
        run = await self._database.write(lambda tx: self._cancel(tx, _require(tx.connection, project, run_id)))
        return await self._end_cancelled(run)

    def _cancel(self, tx: Transaction, run: Run) -> Run:
        """Let a run be cancelling, or cancelled where nobody works on it. Raises RunNotCancellable."""
        # With the commit: whoever asked may be gone by then.
        tx.after_commit(partial(self._engine.cancel, run.id))
        if run.status is RunStatus.CANCELLING:
            return run
        events: list[EventDraft] = []
        try:
            cancelling = move_run(tx, events, run, RunStatus.CANCELLING)
        except IllegalTransition:
            raise RunNotCancellable(status=run.status) from None
        if run.status in _IDLE and not self._engine.is_held(tx.connection, run.id):
            # Here and now: all workers may be busy, and nobody else would come.
            cancelling = close_run(tx, events, cancelling, RunStatus.CANCELLED, unfinished=Unfinished())
        self._log.append(tx, run.project, run.id, events)
        return cancelling

    async def _end_cancelled(self, run: Run) -> Run:
        """End a cancelling run where no worker does."""
        is_held = partial(self._engine.is_held, run_id=run.id)
        if run.status.is_terminal or await self._database.read(is_held):
            return run
        return await self._engine.end_idle(run, RunStatus.CANCELLED) or await self.get(run.project, run.id)

    async def delete_thread(self, project: str, thread_id: str) -> None:
        """Delete a thread with all that belongs to it; its run is cancelled and its session ended first.

        Raises ThreadNotFound.
        """
        await to_the_end(self._delete_thread(project, thread_id))

    async def _delete_thread(self, project: str, thread_id: str) -> None:
        def hide(tx: Transaction) -> Run | None:
            # One unit: a run that is created behind it finds no thread, and one before it is cancelled.
            self._threads.hide(tx, project, thread_id)
            active = runs.active_for_thread(tx.connection, project, thread_id)
            return None if active is None else self._cancel(tx, active)

        cancelled = await self._database.write(hide)
        if cancelled is not None:
            await self._end_cancelled(cancelled)
            await self.wait(project, cancelled.id, _CANCEL_SECONDS)
        await self._sessions.close_thread(thread_id)
        await self._threads.delete_hidden(thread_id)
        if cancelled is not None:
            self._log.deleted(project, cancelled.id)

    async def submit_tool_outputs(self, project: str, run_id: str, outputs: Sequence[ToolOutput]) -> Run:
        """Give the outputs of all the functions that a run waits for; it is queued again.

        Repeating it with outputs that were taken before changes nothing, and gives the run as it stands.

        Raises InvalidFields, RunNotFound, RunNotAwaitingToolOutputs, ToolOutputsMismatch.
        """
        violations = Violations(self._limits.shared)
        for index, output in enumerate(outputs):
            field = f"tool_outputs[{index}].output"
            violations.string(field, output.output, maximum=self._limits.tool_output_characters)
        violations.check()

        def work(tx: Transaction) -> Run | RunNotAwaitingToolOutputs:
            events: list[EventDraft] = []
            outcome = submit(tx, events, _require(tx.connection, project, run_id), outputs)
            self._log.append(tx, project, run_id, events)
            tx.after_commit(self._engine.wake)
            return outcome

        outcome = await self._database.write(work)
        if isinstance(outcome, RunNotAwaitingToolOutputs):
            raise outcome
        return outcome


def _require(connection: Connection, project: str, run_id: str) -> Run:
    run = runs.get(connection, project, run_id)
    if run is None:
        raise RunNotFound(id=run_id)
    return run


def _is_settled(run: Run) -> bool:
    return run.status.is_terminal or run.status is RunStatus.REQUIRES_ACTION
