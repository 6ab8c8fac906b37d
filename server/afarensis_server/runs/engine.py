"""Claims queued runs and carries them on: many at a time, each under a lease, in one task of its own."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import structlog
from sqlalchemy import Connection

from ..clock import now
from ..domain.events import EventDraft
from ..domain.runs import Run, RunError, RunErrorCode, RunStatus
from ..errors import DatabaseUnavailable, DomainError, ResourceExhausted, RunNotFound
from ..events.kinds import RunLog
from ..sessions.service import Sessions
from ..store import queue, runs
from ..store.database import Database
from ..store.queue import Claim, Lease
from ..store.writer import Transaction
from .closing import Unfinished, close_run, unfinished_from
from .conversation import Conversation, ConversationLimits
from .loops import repeat, wait_for_event
from .models.protocol import Model, ModelError
from .prompt import Prompts
from .recorder import LeaseLost, RunRecorder
from .recovery import take_up
from .states import IllegalTransition

_log = structlog.get_logger(__name__)

#: Seconds after which the next expiry is looked up anew, since clocks are set.
_EXPIRY_SECONDS = 60.0
#: Later than any run expires.
_ALWAYS = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How runs are worked on."""

    #: Runs worked on at the same time; more wait in the queue.
    concurrent_runs: int = 200
    #: Seconds after which another server may take up a run whose worker is silent.
    lease_seconds: float = 30.0
    #: Seconds that code of a run that is cancelled, or expires, gets to end by itself before it is killed.
    cancel_grace_seconds: float = 0.3
    conversation: ConversationLimits = ConversationLimits()


class _Stop(StrEnum):
    """Why a worker lets go of a run that is not done."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    #: The server shuts down; the run is taken up at the next start.
    RELEASED = "released"
    #: It is another worker's: this one slept, or was cut off from the database, for longer than its lease.
    LOST = "lost"


#: What the result of interrupted code says.
_INTERRUPTED = {
    _Stop.CANCELLED: "The run was cancelled while this code was running.",
    _Stop.EXPIRED: "The run expired while this code was running.",
    _Stop.RELEASED: "The server was shut down while this code was running.",
    _Stop.LOST: "Another server took the run over while this code was running.",
}
#: Seconds between two tries to interrupt code that may be about to begin.
_HALT_AGAIN_SECONDS = 0.05
#: Seconds after which code that was halted counts as stuck. It has long been killed; its files take time to be kept.
_HALT_SECONDS = 60.0


class RunEngine:
    """The worker of all runs of this server. An async context manager: leaving it releases the runs at work."""

    def __init__(
        self,
        database: Database,
        log: RunLog,
        sessions: Sessions,
        model: Model,
        prompts: Prompts,
        settings: EngineSettings,
        owner: str,
    ) -> None:
        """Nothing is begun yet.

        Args:
            database: where runs, and the queue of those to work on, are kept.
            log: where their events are kept.
            sessions: where their code runs.
            model: answers.
            prompts: builds what it is asked.
            settings: how they are worked on.
            owner: names this worker in leases. The same name, used again, ends the leases that it left: whoever had it
                before must be no more.
        """
        self._database = database
        self._event_log = log
        self._sessions = sessions
        self._model = model
        self._prompts = prompts
        self._settings = settings
        self._owner = owner
        self._leases: dict[str, Lease] = {}
        self._stops: dict[str, asyncio.Future[_Stop]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._queued = asyncio.Event()
        self._expiries = asyncio.Event()
        #: When the next expiry is looked for, unless one comes earlier.
        self._looks_at = _ALWAYS
        #: The runs that were at work at the last claim, and passed over by it.
        self._passed_over: frozenset[str] = frozenset()
        self._loops: list[asyncio.Task[None]] = []
        self._draining = False

    async def __aenter__(self) -> Self:
        # Those of the process before this one; others on the same database keep theirs.
        await self._database.write(lambda tx: queue.release_of(tx.connection, self._owner))
        self._loops = [
            asyncio.create_task(repeat(each), name=f"runs: {each.__name__}")
            for each in (self._dispatch, self._expire, self._renew)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # First, so that no run is begun behind the drain.
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.drain(0.0)

    def wake(self, expire_time: datetime | None = None) -> None:
        """A run was queued: look at once. With the ``expire_time`` of one that is new."""
        self._queued.set()
        if expire_time is not None and expire_time < self._looks_at:
            self._expiries.set()

    def cancel(self, run_id: str) -> None:
        """Stop the work on a run whose row says cancelling, if it is worked on here."""
        self._stop(run_id, _Stop.CANCELLED)

    def is_held(self, connection: Connection, run_id: str) -> bool:
        """Whether a worker, here or elsewhere, has the run, and is to end it."""
        # One that was given up here without an end, its database being away, is held for no longer than its lease.
        return queue.is_held(connection, run_id, now(), self._owner if run_id in self._workers else "")

    @property
    def at_work(self) -> int:
        """How many are worked on now."""
        return len(self._workers)

    async def drain(self, grace_seconds: float) -> None:
        """Take no more runs; wait for those at work, then release what is left for the next start."""
        self._draining = True
        if self._workers:
            await asyncio.wait(self._workers.values(), timeout=grace_seconds)
        for run_id in list(self._workers):
            self._stop(run_id, _Stop.RELEASED)
        if self._workers:
            await asyncio.wait(self._workers.values())

    def _stop(self, run_id: str, reason: _Stop) -> bool:
        stop = self._stops.get(run_id)
        if stop is None:
            return False
        if not stop.done():
            stop.set_result(reason)
        return True

    # --- loops --------------------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Claim runs while there are places for them."""
        self._queued.clear()
        places = 0 if self._draining else self._settings.concurrent_runs - len(self._workers)
        if places > 0:
            moment = now()
            until = moment + timedelta(seconds=self._settings.lease_seconds)
            # A lease can run out under its own worker: the clock was set, or the database was not to be had.
            held = self._passed_over = frozenset(self._workers)
            claimed = await self._database.write(
                lambda tx: queue.claim(tx.connection, self._owner, moment, until, places, besides=held)
            )
            for claim in claimed:
                self._start(claim)
        # A lease of another server may run out without anybody telling.
        await wait_for_event(self._queued, self._settings.lease_seconds)

    def _start(self, claim: Claim) -> None:
        run = claim.run
        self._leases[run.id] = claim.lease
        self._stops[run.id] = asyncio.get_running_loop().create_future()
        worker = asyncio.create_task(self._work(run, claim.lease), name=f"run {run.id}")
        self._workers[run.id] = worker
        worker.add_done_callback(lambda _: self._finished(run.id))

    def _finished(self, run_id: str) -> None:
        del self._leases[run_id]
        del self._stops[run_id]
        del self._workers[run_id]
        # Its place may be what others wait for, or it may be in the queue again.
        if len(self._workers) + 1 >= self._settings.concurrent_runs or run_id in self._passed_over:
            self._queued.set()

    async def _renew(self) -> None:
        """Keep the leases of the runs at work, and stop the work on those that were lost."""
        await asyncio.sleep(self._settings.lease_seconds / 3)
        if held := set(self._leases.values()):
            until = now() + timedelta(seconds=self._settings.lease_seconds)
            for lease in held - await self._database.write(lambda tx: queue.extend(tx.connection, held, until)):
                if self._leases.get(lease.run_id) == lease:
                    self._stop(lease.run_id, _Stop.LOST)

    async def _expire(self) -> None:
        """End the runs whose time is over and that nobody works on; workers look after their own."""
        self._expiries.clear()
        self._looks_at = _ALWAYS
        moment = now()
        for run in await self._database.read(lambda connection: runs.expired_before(connection, moment)):
            if not self._stop(run.id, _Stop.EXPIRED):
                await self._expire_idle(run)
        upcoming = await self._database.read(lambda connection: runs.next_expiry(connection, moment))
        latest = moment + timedelta(seconds=_EXPIRY_SECONDS)
        self._looks_at = latest if upcoming is None else min(upcoming, latest)
        await wait_for_event(self._expiries, (self._looks_at - now()).total_seconds())

    async def _expire_idle(self, run: Run) -> None:
        try:
            await self.end_idle(run, RunStatus.EXPIRED)
        except DatabaseUnavailable:
            raise
        except Exception:
            # The others' time is over, too.
            _log.exception("run could not expire", run_id=run.id, thread_id=run.thread_id)

    # --- one run ------------------------------------------------------------------------------------------------------

    async def _work(self, run: Run, lease: Lease) -> None:
        """Carry a run on until it is over, waits for its client, or is stopped."""
        log = _log.bind(run_id=run.id, thread_id=run.thread_id)
        recorder = RunRecorder(self._database, self._event_log, run.project, run.id, lease)
        try:
            taken = await self._take_up(recorder, run)
            if taken.status.is_terminal:
                return
            conversation = Conversation(
                taken,
                database=self._database,
                recorder=recorder,
                sessions=self._sessions,
                model=self._model,
                prompts=self._prompts,
                limits=self._settings.conversation,
            )
            stopped, failure = await self._converse(taken, conversation)
            if stopped is _Stop.LOST or isinstance(failure, LeaseLost):
                raise LeaseLost(run.id)
            await recorder.close()
            await self._conclude(recorder, taken, lease, conversation.unfinished(), stopped, failure)
        except (LeaseLost, RunNotFound):
            await self._let_go(run)
        except Exception:
            # Nothing more can be written about this run here. Its lease runs out, and it is taken up again.
            log.exception("run abandoned")

    async def _let_go(self, run: Run) -> None:
        """Write nothing more about a run that is another worker's, or was deleted, and end what it has here."""
        _log.warning("run let go: it was deleted, or taken over", run_id=run.id, thread_id=run.thread_id)
        # With the code that is at work in it. The run's next code, wherever it runs, is told that variables are gone.
        await self._sessions.close_thread(run.thread_id)

    async def _converse(self, run: Run, conversation: Conversation) -> tuple[_Stop | None, BaseException | None]:
        """Talk until the end or until stopped: tells why it was stopped, or what went wrong."""
        stop = self._stops[run.id]
        talk = asyncio.create_task(conversation.run(), name=f"conversation {run.id}")
        try:
            seconds = None if run.expire_time is None else max(0.0, (run.expire_time - now()).total_seconds())
            waiting: set[asyncio.Future[Any]] = {talk, stop}
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if talk.done():
                return None, talk.exception()
            reason = stop.result() if stop.done() else _Stop.EXPIRED
            await self._halt(conversation, talk, reason)
            return reason, None
        finally:
            # Code that still runs is interrupted by this, too; what it put out until now is stored already.
            talk.cancel()
            await asyncio.wait({talk})
            if not talk.cancelled():
                talk.exception()  # taken note of: why the work ended is known

    async def _halt(self, conversation: Conversation, talk: asyncio.Task[None], reason: _Stop) -> None:
        """Let code that is at work end soon, so that what it made is kept."""
        end = time.monotonic() + _HALT_SECONDS
        while not talk.done() and time.monotonic() < end:
            if not await conversation.halt(_INTERRUPTED[reason], self._settings.cancel_grace_seconds):
                return
            await asyncio.wait({talk}, timeout=_HALT_AGAIN_SECONDS)

    async def _take_up(self, recorder: RunRecorder, run: Run) -> Run:
        if run.status is RunStatus.QUEUED:
            return run
        stored = await self._event_log.read_all(run.project, run.id)

        def work(tx: Transaction, events: list[EventDraft]) -> Run:
            row = runs.get(tx.connection, run.project, run.id)
            return run if row is None else take_up(tx, events, row, stored)

        return await recorder.record(work)

    async def _conclude(
        self,
        recorder: RunRecorder,
        run: Run,
        lease: Lease,
        unfinished: Unfinished,
        stopped: _Stop | None,
        failure: BaseException | None,
    ) -> None:
        """Bring the run's row in line with why the work on it ended."""
        if isinstance(failure, IllegalTransition):
            stopped, failure = _Stop.CANCELLED, None
        if stopped is _Stop.RELEASED:
            await self._database.write(lambda tx: queue.yield_lease(tx.connection, lease))
            return
        if stopped is None and failure is None:
            return
        if failure is not None:
            error = _error_of(failure, run)
            await self._end(recorder, run, RunStatus.FAILED, unfinished, error)
        elif stopped is not None:
            await self._end(recorder, run, RunStatus(stopped.value), unfinished, None)

    async def end_idle(self, run: Run, status: RunStatus) -> Run | None:
        """End a run that nobody works on; None when somebody has it, or moved it first."""
        recorder = RunRecorder(self._database, self._event_log, run.project, run.id)
        stored = await self._event_log.read_all(run.project, run.id)
        return await self._end(recorder, run, status, unfinished_from(stored), None, idle=True)

    async def _end(
        self,
        recorder: RunRecorder,
        run: Run,
        status: RunStatus,
        unfinished: Unfinished,
        error: RunError | None,
        *,
        idle: bool = False,
    ) -> Run | None:
        def work(tx: Transaction, events: list[EventDraft]) -> Run | None:
            row = runs.get(tx.connection, run.project, run.id)
            if row is None or row.status.is_terminal:
                return None
            if idle and self.is_held(tx.connection, run.id):
                return None
            # A client's cancellation came first, whatever ended the work afterwards.
            final = RunStatus.CANCELLED if row.status is RunStatus.CANCELLING else status
            return close_run(
                tx,
                events,
                row,
                final,
                unfinished=unfinished,
                error=error if final is RunStatus.FAILED else None,
            )

        return await recorder.record(work)


def _error_of(failure: BaseException, run: Run) -> RunError:
    """What the client is told of a failure; the unexpected is logged, and told without internals."""
    match failure:
        case ModelError():
            return failure.run_error
        case ResourceExhausted():
            return RunError(RunErrorCode.RATE_LIMIT_EXCEEDED, str(failure), failure.reason)
        case DomainError():
            return RunError(RunErrorCode.SERVER_ERROR, str(failure), failure.reason)
        case _:
            _log.error("run failed", run_id=run.id, thread_id=run.thread_id, exc_info=failure)
            return RunError(
                RunErrorCode.SERVER_ERROR,
                "Sorry, something went wrong inside the server. Its log has the details under this run's id.",
                "INTERNAL",
            )
