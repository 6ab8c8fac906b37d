"""Code that clients run in sessions: each execution in a task of its own, which outlives the call that began it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from .. import ids
from ..clock import now
from ..domain.executions import (
    CodeError,
    DisplayItem,
    Execution,
    ExecutionEvent,
    ExecutionItem,
    ExecutionResult,
    ExecutionStatus,
    FileItem,
    LoggedExecutionEvent,
    OutputItem,
    Started,
    join_outputs,
    merge_outputs,
)
from ..errors import DatabaseUnavailable, DomainError, ExecutionNotFound, RequestIdReused, SandboxDown, ShuttingDown
from ..events.kinds import ExecutionLog
from ..events.log import Heartbeat, LogPage
from ..events.recorder import MERGE_LIMIT, Recorder
from ..store import executions, requests
from ..store.database import Database
from ..store.writer import Transaction
from .live import LiveSession
from .service import Sessions

_log = structlog.get_logger(__name__)

#: Seconds that code may run before the first that it does is stored: if it has ended by then, all of it is one commit.
#: With somebody who follows it, where there are many, and without. Where there are few, that it began is stored and
#: sent while it runs: that costs a commit, but no time.
_FOLLOWED_SECONDS = 0.002
_ALONE_SECONDS = 0.02
#: Seconds that interrupted code has at shutdown until its session is closed. The sandbox's own grace is shorter.
_INTERRUPT_SECONDS = 15.0

_LOST = ExecutionResult(
    ExecutionStatus.SESSION_LOST,
    wall_seconds=0.0,
    error=CodeError("SessionLost", "The server stopped while this code was running. Its session is gone.", ""),
    state_lost=True,
)


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """Code to run. With a ``request_id`` it runs once, however often ``method`` asks for it."""

    session_id: str
    code: str
    #: None takes the server's setting.
    timeout_seconds: float | None = None
    method: str = "Execute"
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ExecutionState:
    """An execution with what has become of it so far."""

    execution: Execution
    state_lost: bool
    outputs: tuple[ExecutionItem, ...]
    #: None until it has ended.
    result: ExecutionResult | None


class _Work:
    """An execution under way."""

    def __init__(self, project: str, request: ExecutionRequest, log: ExecutionLog, patience_seconds: float) -> None:
        self.request = request
        #: How long its first events may wait for others.
        self.patience_seconds = patience_seconds
        self.execution = Execution(ids.execution_id(), project, now(), request.session_id, request.code)
        #: Held for the first reader, who comes when the first events are stored.
        self.tail = log.tail(project, self.execution.id)
        #: What tells another request with the same id.
        self.fingerprint = ""
        if request.request_id:
            self.fingerprint = requests.fingerprint_of(request.session_id, request.code, request.timeout_seconds)
        self.loop = asyncio.get_running_loop()
        #: The id of the execution, once it is stored.
        self.begun: asyncio.Future[str] = self.loop.create_future()
        self.is_stored = False
        self.live: LiveSession | None = None
        self.interrupted = False
        #: What its result is to say besides, when it was interrupted.
        self.reason = ""

    async def stored(self) -> str:
        """Wait until the execution is stored; returns its id."""
        # With a request id others may wait for the same, and none of them may cancel it by leaving.
        return await (asyncio.shield(self.begun) if self.request.request_id else self.begun)

    def insert(self, tx: Transaction) -> None:
        """Store the execution, and what it was asked for by."""
        executions.insert(tx.connection, self.execution)
        request = self.request
        if request.request_id:
            requests.forget(tx.connection)
            requests.remember(
                tx.connection,
                self.execution.project,
                request.method,
                request.request_id,
                self.fingerprint,
                self.execution.id,
            )
        tx.after_commit(self._stored)

    def _stored(self) -> None:
        self.is_stored = True
        if not self.begun.done():
            self.begun.set_result(self.execution.id)

    def fail(self, error: BaseException) -> None:
        """Tell whoever asked that it could not be stored."""
        if not self.begun.done():
            self.begun.set_exception(error)
            self.begun.exception()  # they may have left

    async def interrupt(self, reason: str = "") -> None:
        """Interrupt the code, or keep it from being begun."""
        self.interrupted = True
        self.reason = self.reason or reason
        if self.live is not None and self.live.execution_id == self.execution.id:
            await self.live.sandbox.interrupt()


class Executions:
    """All executions that clients asked for. An async context manager: leaving it interrupts what still runs.

    Args:
        database: where they are kept.
        log: where their events are kept.
        sessions: where they run. They must be left later than this.
    """

    def __init__(self, database: Database, log: ExecutionLog, sessions: Sessions) -> None:
        self._database = database
        self._events = log
        self._sessions = sessions
        #: By execution id. An entry leaves when its task has ended.
        self._works: dict[str, _Work] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: By project, method and request id, until the execution is stored.
        self._beginning: dict[tuple[str, str, str], _Work] = {}
        self._draining = False

    async def __aenter__(self) -> Self:
        # What an earlier process of this server left running died with it.
        await self._database.write(self._lose_own)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.drain(0.0)

    @property
    def at_work(self) -> int:
        """How many are worked on now."""
        return len(self._tasks)

    async def drain(self, grace_seconds: float) -> None:
        """Begin no more; wait for what runs, then interrupt it, and return once every result is stored."""
        self._draining = True
        if await self._wait(grace_seconds):
            return
        for work in list(self._works.values()):
            await work.interrupt("The server shut down while this code was running.")
        if await self._wait(_INTERRUPT_SECONDS):
            return
        for work in list(self._works.values()):
            await self._sessions.close(work.execution.project, work.request.session_id)
        await self._wait(None)

    async def _wait(self, seconds: float | None) -> bool:
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        return not self._tasks

    # --- what clients ask for -----------------------------------------------------------------------------------------

    async def run(self, project: str, request: ExecutionRequest) -> ExecutionState:
        """Hand code to a session; the execution once it has ended. Leaving does not stop it.

        Raises SessionNotFound, SessionNotActive, SessionBusy, SandboxDown, RequestIdReused, ShuttingDown.
        """
        work = self._begin(project, request, _ALONE_SECONDS)
        execution_id = await work.stored()
        return await (self._end_of(work) if execution_id == work.execution.id else self.wait(project, execution_id))

    async def stream(
        self, project: str, request: ExecutionRequest, heartbeat_seconds: float, *, interrupt_when_left: bool = False
    ) -> AsyncGenerator[LoggedExecutionEvent | Heartbeat, None]:
        """Hand code to a session; its events from the first on, until its result.

        Leaving does not stop the code, unless ``interrupt_when_left``. Raises what `run` does.
        """
        work = self._begin(project, request, _FOLLOWED_SECONDS if self._events.pace else 0.0)
        try:
            execution_id = await work.stored()
            # Without a heartbeat ahead: here, the first item is the event `Started`.
            items = self._events.follow(project, execution_id, 0, heartbeat_seconds, greets=False)
            async with aclosing(items):
                async for item in items:
                    yield item
        except (asyncio.CancelledError, GeneratorExit):
            # Streams that the server itself ends, to shut down, can be taken up again.
            if interrupt_when_left and not self._draining:
                await work.interrupt()
            raise

    def _begin(self, project: str, request: ExecutionRequest, patience_seconds: float) -> _Work:
        if self._draining:
            raise ShuttingDown
        work = _Work(project, request, self._events, patience_seconds)
        if request.request_id:
            key = (project, request.method, request.request_id)
            earlier = self._beginning.setdefault(key, work)
            if earlier is not work:
                if earlier.fingerprint != work.fingerprint:
                    raise RequestIdReused(request_id=request.request_id)
                return earlier
            work.begun.add_done_callback(lambda _: self._beginning.pop(key))
        execution_id = work.execution.id
        task = work.loop.create_task(self._work(work), name=f"execution {execution_id}")
        self._works[execution_id], self._tasks[execution_id] = work, task

        def forget(_: object) -> None:
            del self._works[execution_id], self._tasks[execution_id]

        task.add_done_callback(forget)
        return work

    async def get(self, project: str, execution_id: str) -> ExecutionState:
        """The execution as it stands. Raises ExecutionNotFound."""
        execution, events = await asyncio.gather(
            self._database.read(lambda connection: executions.get(connection, project, execution_id)),
            self._events.read_all(project, execution_id),
        )
        if execution is None:
            raise ExecutionNotFound(id=execution_id)
        return _state(execution, events)

    async def wait(self, project: str, execution_id: str) -> ExecutionState:
        """The execution once it has ended. Raises ExecutionNotFound."""
        work = self._works.get(execution_id)
        if work is not None and work.execution.project == project:
            return await self._end_of(work)
        return await self.get(project, execution_id)

    async def _end_of(self, work: _Work) -> ExecutionState:
        execution = work.execution
        if (task := self._tasks.get(execution.id)) is not None:
            await asyncio.wait({task})
        events = work.tail.after(0)
        return await self.get(execution.project, execution.id) if events is None else _state(execution, events)

    def follow_events(
        self, project: str, execution_id: str, after_sequence: int, heartbeat_seconds: float
    ) -> AsyncGenerator[LoggedExecutionEvent | Heartbeat, None]:
        """The events of an execution behind a cursor: stored ones, then live ones, until its result.

        Raises ExecutionNotFound, CursorPastEnd, ShuttingDown.
        """
        return self._events.follow(project, execution_id, after_sequence, heartbeat_seconds)

    async def list_events(
        self, project: str, execution_id: str, after_sequence: int, limit: int
    ) -> LogPage[LoggedExecutionEvent]:
        """Stored events behind a cursor, at most this many. Raises ExecutionNotFound, CursorPastEnd."""
        return await self._events.page(project, execution_id, after_sequence, limit)

    async def interrupt(self, project: str, execution_id: str) -> None:
        """Interrupt the code, if it still runs. Raises ExecutionNotFound."""
        work = self._works.get(execution_id)
        if work is not None and work.execution.project == project:
            await work.interrupt()
            return
        await self._events.last_sequence(project, execution_id)

    # --- one execution ------------------------------------------------------------------------------------------------

    async def _work(self, work: _Work) -> None:
        execution = work.execution
        recorder = Recorder(
            self._database,
            self._events,
            execution.project,
            execution.id,
            _merge,
            # A power cut ends the session, which nobody can go on in or run the same request again. Its files and those
            # of runs are another matter.
            durable=False,
            opening=work.insert,
            on_failure=work.fail,
            patience_seconds=work.patience_seconds,
            tail=work.tail,
        )
        try:
            if work.request.request_id and (known := await self._find(work)) is not None:
                work.begun.set_result(known)
                return
            result = await self._run(work, recorder)
        except Exception as error:
            if not work.is_stored:
                work.fail(error)
                return
            result = _failure(error, execution)
        # The session is free by now, so that who sees the result can go on in it at once.
        await self._end(work, recorder, result.explained(work.reason))

    async def _run(self, work: _Work, recorder: Recorder[ExecutionEvent, LoggedExecutionEvent]) -> ExecutionResult:
        """Run the code, and note what it does."""
        execution, request = work.execution, work.request
        work.live = live = await self._sessions.live(execution.project, request.session_id)
        result = None
        events = self._sessions.execute(
            live, request.code, execution_id=execution.id, timeout_seconds=request.timeout_seconds, wait=False
        )
        async with aclosing(events):
            await recorder.emit(await anext(events))
            if request.request_id:
                # That it runs once has to be stored before it runs. Otherwise it may begin at once: a crash before the
                # commit takes the session, and all that the code did in it, along.
                await recorder.flush()
            if work.interrupted:
                failure = CodeError("KeyboardInterrupt", "The code was interrupted before it began.", "")
                return ExecutionResult(ExecutionStatus.INTERRUPTED, wall_seconds=0.0, error=failure)
            async for event in events:
                if isinstance(event, ExecutionResult):
                    result = event
                else:
                    await recorder.emit(event)
        if result is None:
            raise RuntimeError("code ended without a result")
        return result

    async def _find(self, work: _Work) -> str | None:
        """The execution of an earlier request with the same id."""
        request = work.request
        found = await self._database.read(
            lambda connection: requests.find(connection, work.execution.project, request.method, request.request_id)
        )
        if found is None:
            return None
        fingerprint, execution_id = found
        if fingerprint != work.fingerprint:
            raise RequestIdReused(request_id=request.request_id)
        return execution_id

    async def _end(
        self,
        work: _Work,
        recorder: Recorder[ExecutionEvent, LoggedExecutionEvent],
        result: ExecutionResult,
    ) -> None:
        """Store the result with all output before it. Its readers wait for it, so this goes on until it is done."""
        while True:
            try:
                await recorder.record(lambda _, told: told.append(result))
                return
            except DatabaseUnavailable as error:
                if not work.is_stored:
                    work.fail(error)
                    return  # whoever asked for it knows of no execution
                _log.warning("result not stored yet", execution_id=work.execution.id, error=str(error))
                if self._draining:
                    return  # the next start ends it
                await asyncio.sleep(error.retry_seconds)

    def _lose_own(self, tx: Transaction) -> None:
        for project, execution_id in executions.unfinished_of(tx.connection, self._sessions.owner):
            self._events.append(tx, project, execution_id, [_LOST])


def _state(execution: Execution, events: Sequence[LoggedExecutionEvent]) -> ExecutionState:
    """An execution with what all of its events so far tell."""
    happened = [logged.event for logged in events]
    outputs = [event for event in happened if isinstance(event, OutputItem | DisplayItem | FileItem)]
    results = [event for event in happened if isinstance(event, ExecutionResult)]
    return ExecutionState(
        execution,
        any(isinstance(event, Started) and event.state_lost for event in happened),
        join_outputs(outputs),
        results[-1] if results else None,
    )


def _merge(first: ExecutionEvent, second: ExecutionEvent) -> ExecutionEvent | None:
    if isinstance(first, OutputItem) and isinstance(second, OutputItem):
        return merge_outputs(first, second, MERGE_LIMIT)
    return None


def _failure(error: Exception, execution: Execution) -> ExecutionResult:
    """The result of code that was cut short by a failure of the server's own; the unexpected is logged."""
    if isinstance(error, SandboxDown):
        failure = CodeError("SessionLost", str(error), "")
        return ExecutionResult(ExecutionStatus.SESSION_LOST, wall_seconds=0.0, error=failure, state_lost=True)
    if isinstance(error, DomainError):
        text = f"The server could not keep what the code put out, so it was interrupted: {error}"
    else:
        _log.error("execution failed", execution_id=execution.id, exc_info=error)
        text = "Something went wrong in the server, so the code was interrupted. Its log has the details."
    return ExecutionResult(ExecutionStatus.INTERRUPTED, wall_seconds=0.0, error=CodeError("ServerError", text, ""))
