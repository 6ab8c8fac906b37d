"""The loop of a run: ask the model, run its code, tell it what happened, until it has answered."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from ..domain.events import CodeInterpreterCallDelta, EventDraft, FunctionCallDelta
from ..domain.executions import (
    CodeError,
    ExecutionResult,
    ExecutionStatus,
)
from ..domain.runs import (
    FunctionCall,
    RequiredAction,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunStatus,
    RunStep,
    Usage,
)
from ..domain.tools import CodeInterpreterTool, FunctionTool, ToolChoice
from ..sandbox.driver import DATA_DIRECTORY
from ..sessions.service import Sessions
from ..store import queue, runs, steps
from ..store.database import Database
from ..store.writer import Transaction
from .budgets import Budget
from .citations import Made, made_by
from .closing import Unfinished, close_run, kept_paths
from .code_calls import CodeCalls
from .demands import call_refused, choice_ignored, format_missed, missing_call
from .models.protocol import FinishReason, Model, ModelError, ModelRequest, TextPart, UserMessage
from .models.usage import estimate_prompt
from .moves import move_run, store_step
from .prompt import Prompts
from .recorder import RunRecorder
from .states import IllegalTransition, check
from .turn import AskedCall, Turn
from .writer import LastWork, Writer

T = TypeVar("T")

#: Tokens of history that are not worth halving.
_LEAST_HISTORY_TOKENS = 64
#: Why a run ends whose answer was cut off like this.
_CUTS: dict[FinishReason | None, RunIncompleteReason] = {
    FinishReason.LENGTH: RunIncompleteReason.MAX_COMPLETION_TOKENS,
    FinishReason.CONTENT_FILTER: RunIncompleteReason.CONTENT_FILTER,
}


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    """What bounds a run besides its tokens and its time."""

    #: Model calls of one run; a model that goes round in circles ends here.
    model_calls: int = 100


class Conversation:
    """Carries one claimed run on from wherever the store says it is."""

    def __init__(
        self,
        run: Run,
        *,
        database: Database,
        recorder: RunRecorder,
        sessions: Sessions,
        model: Model,
        prompts: Prompts,
        limits: ConversationLimits,
    ) -> None:
        self._run = run
        self._database = database
        self._recorder = recorder
        self._sessions = sessions
        self._model = model
        self._prompts = prompts
        self._limits = limits
        self._writer = Writer(recorder, run)
        self._made = Made()
        #: What of the thread fits into the model's context, once it has said that not all does.
        self._history_tokens: int | None = None
        #: What the model is told once more, since it did not do it.
        self._reminder = ""
        self._code = CodeCalls(run, sessions, self._writer)
        #: What the model calls so far took, those that no step tells of included.
        self._budget = Budget(run)

    async def run(self) -> None:
        """Go on until the run is terminal or waits for the client.

        Raises IllegalTransition when somebody else moved the run, ModelError, and DomainError for what its code needs.
        """
        if self._run.status is not RunStatus.IN_PROGRESS:
            await self._advance(RunStatus.IN_PROGRESS)
        for _ in range(self._limits.model_calls):
            done = await self._steps()
            self._made = made_by(done)
            self._budget.note_steps(done)
            request = await self._prompts.build(self._run, self._code.seconds, self._history_tokens)
            if self._reminder:
                reminder = UserMessage((TextPart(self._reminder),))
                request = replace(request, messages=(*request.messages, reminder))
            if (reason := self._budget.exhausted(request)) is not None:
                return await self._end(RunStatus.INCOMPLETE, incomplete_reason=reason)
            try:
                if await self._turn(request):
                    return None
            except ModelError as error:
                if not self._can_shorten(request, error):
                    raise
        exceeded = RunError(
            RunErrorCode.SERVER_ERROR,
            f"The run made {self._limits.model_calls} model calls without coming to an answer. Give clearer "
            "instructions, or raise the setting runs.model_calls.",
            "MODEL_CALLS_EXCEEDED",
        )
        return await self._end(RunStatus.FAILED, error=exceeded)

    def _can_shorten(self, request: ModelRequest, error: ModelError) -> bool:
        """Whether to ask again with half the history: the prompt was too long for the model, which has said nothing."""
        if not error.context_length_exceeded or self._writer.message is not None or self._writer.calls is not None:
            return False
        before = estimate_prompt(request.messages) if self._history_tokens is None else self._history_tokens
        self._history_tokens = before // 2
        return self._history_tokens >= _LEAST_HISTORY_TOKENS

    async def halt(self, reason: str, within_seconds: float) -> bool:
        """Have code that is at work end soon, and `run` with it; see `CodeCalls.halt`."""
        return await self._code.halt(reason, within_seconds)

    def unfinished(self) -> Unfinished:
        """How far the open message and step have come, for whoever ends the run from outside."""
        return Unfinished(self._writer.open_details(), self._writer.open_content(), self._budget.untold)

    # --- one turn -----------------------------------------------------------------------------------------------------

    async def _turn(self, request: ModelRequest) -> bool:
        """One model call and the code it asks for; tells whether the run is over or waits for the client."""
        turn = Turn(self._writer, self._made.since_message.image_ids, self._complete_message)
        async with (
            aclosing(self._model.stream(request)) as events,
            aclosing(self._budget.watched(request, events)) as counted,
        ):
            await turn.consume(counted)
        if (cut := _CUTS.get(turn.finish)) is not None:
            await self._say_late(turn)
            await self._end(RunStatus.INCOMPLETE, incomplete_reason=cut)
            return True
        told_before, self._reminder = self._reminder, missing_call(request.tool_choice, turn.calls) or ""
        if self._reminder and told_before:
            await self._end(RunStatus.FAILED, error=choice_ignored(self._reminder))
            return True
        if not turn.calls:
            return await self._finish(turn)
        return await self._answer_calls(turn, request.tool_choice)

    async def _finish(self, turn: Turn) -> bool:
        """End the message, and the run with it, unless the model had to do something else."""
        if self._writer.message is None:
            await self._writer.open_message(self._made.since_message.image_ids)
        if self._reminder:
            await self._complete_message(self._budget.take())
            return False
        error = None if self._writer.has_refused() else format_missed(self._run.response_format, self._writer.text())
        if error is not None:
            await self._end(RunStatus.FAILED, error=error)
        else:
            # Both at once: a run is not to be seen that has answered and is not over.
            await self._complete_message(self._budget.take(), LastWork(self._check_completable, self._complete))
        return True

    async def _say_late(self, turn: Turn) -> None:
        """Write down the words that came behind calls, if there are any."""
        if turn.late_text.strip():
            await self._writer.open_message(self._made.since_message.image_ids)
            await self._writer.add_text(turn.late_text)

    async def _answer_calls(self, turn: Turn, choice: ToolChoice) -> bool:
        """Run the code, answer what cannot be called, and wait for the client where functions are left."""
        if self._writer.message is not None:
            await self._complete_message(None)
        waiting: list[FunctionCall] = []
        for index, call in enumerate(turn.calls):
            refusal = call_refused(choice, parallel=self._run.parallel_tool_calls, index=index, call=call)
            if refusal is not None:
                await self._refuse(index, call, refusal)
            elif call.is_code and self._has_code_interpreter():
                is_last = index == len(turn.calls) - 1 and not waiting
                await self._code.run(turn, index, self._budget.take if is_last else None)
            elif self._has_function(call.name):
                waiting.append(FunctionCall(call.id, call.name, call.arguments_json))
            else:
                await self._refuse(index, call, f"There is no tool named '{call.name}' in this run.")
        if not waiting and self._writer.calls is not None:
            await self._writer.complete_calls(self._budget.take())
        if turn.late_text.strip():
            # Where functions wait for the client, their step is open meanwhile: the client is to read this first.
            await self._say_late(turn)
            await self._complete_message(None)
        if waiting:
            await self._require_action(tuple(waiting), self._budget.take())
        return bool(waiting)

    async def _refuse(self, index: int, call: AskedCall, text: str) -> None:
        """Answer a call that the model may not make, so that it can go on without it."""
        if call.is_code:
            failure = CodeError("ToolUnavailable", text, "")
            result = ExecutionResult(ExecutionStatus.ERROR, wall_seconds=0.0, error=failure)
            await self._writer.add_call(CodeInterpreterCallDelta(index, call.id, result=result), stored=True)
        else:
            await self._writer.add_call(FunctionCallDelta(index, call.id, output=text), stored=True)

    # --- the run's row ------------------------------------------------------------------------------------------------

    async def _advance(self, status: RunStatus) -> None:
        def work(tx: Transaction, events: list[EventDraft]) -> Run:
            return move_run(tx, events, self._row(tx), status)

        self._run = await self._record(work)

    async def _require_action(self, calls: tuple[FunctionCall, ...], usage: Usage) -> None:
        waiting_step = self._writer.waiting_step(usage)

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            row = self._row(tx)
            move_run(tx, events, row, RunStatus.REQUIRES_ACTION, required_action=RequiredAction(calls))
            store_step(tx, waiting_step)
            queue.release(tx.connection, row.id)

        await self._record(work)
        self._writer.leave_calls()

    async def _end(
        self,
        status: RunStatus,
        *,
        error: RunError | None = None,
        incomplete_reason: RunIncompleteReason | None = None,
    ) -> None:
        unfinished = self.unfinished()

        def work(tx: Transaction, events: list[EventDraft]) -> None:
            close_run(
                tx,
                events,
                self._row(tx),
                status,
                unfinished=unfinished,
                error=error,
                incomplete_reason=incomplete_reason,
            )

        await self._record(work)

    async def _record(self, work: Callable[[Transaction, list[EventDraft]], T]) -> T:
        """Store a change of the run's row. Raises IllegalTransition when somebody else moved the run first.

        Not from within the unit of work, which goes on when its caller is cancelled: nobody would be left to take it.
        """

        def attempt(tx: Transaction, events: list[EventDraft]) -> T | IllegalTransition:
            try:
                return work(tx, events)
            except IllegalTransition as error:
                return error  # raised before anything was changed

        outcome = await self._recorder.record(attempt)
        if isinstance(outcome, IllegalTransition):
            raise outcome
        return outcome

    def _row(self, tx: Transaction) -> Run:
        """The run as it stands now: clients change its metadata and cancel it while we work."""
        row = runs.get(tx.connection, self._run.project, self._run.id)
        if row is None:
            # Deleted together with its thread.
            raise IllegalTransition(RunStatus.CANCELLED, self._run.status)
        return row

    # --- what code made -----------------------------------------------------------------------------------------------

    async def _steps(self) -> list[RunStep]:
        return await self._database.read(
            lambda connection: steps.list_of_run(connection, self._run.project, self._run.id)
        )

    async def _complete_message(self, usage: Usage | None, last: LastWork | None = None) -> None:
        citable: dict[str, str] = {}
        if DATA_DIRECTORY.lstrip("/") in self._writer.text().lower():
            kept = await self._database.read(
                lambda connection: kept_paths(connection, self._run.project, self._run.thread_id)
            )
            citable = {**kept, **self._sessions.paths_of(self._run.thread_id)}
        await self._writer.complete_message(self._made, citable, usage, last)

    def _check_completable(self, tx: Transaction) -> None:
        check(self._row(tx), RunStatus.COMPLETED)

    def _complete(self, tx: Transaction, events: list[EventDraft]) -> None:
        close_run(tx, events, self._row(tx), RunStatus.COMPLETED, unfinished=Unfinished())

    # --- tools --------------------------------------------------------------------------------------------------------

    def _has_code_interpreter(self) -> bool:
        return any(isinstance(tool, CodeInterpreterTool) for tool in self._run.tools)

    def _has_function(self, name: str) -> bool:
        return any(isinstance(tool, FunctionTool) and tool.name == name for tool in self._run.tools)
