"""Takes up a run that its worker left in the middle: after a crash, or when the server was shut down."""

from ..domain.events import EventDraft, RunEvent
from ..domain.executions import ExecutionStatus
from ..domain.runs import CodeInterpreterCall, Run, RunError, RunErrorCode, RunStatus, RunStep, StepStatus, ToolCalls
from ..domain.threads import MessageIncompleteReason
from ..store import runs, steps
from ..store.writer import Transaction
from .closing import Unfinished, close_run, close_step, unfinished_from

_CODE_WAS_RUNNING = RunError(
    RunErrorCode.SERVER_ERROR,
    "The server stopped while code of this run was executing. The code was not run a second time. Create a new run to "
    "go on; files uploaded and files stored before are kept.",
    "CODE_INTERRUPTED",
)

_CODE_CUT = RunError(
    RunErrorCode.SERVER_ERROR,
    "The server was shut down while code of this step was executing. The code is not run a second time; the run goes "
    "on with what it had put out.",
    "CODE_INTERRUPTED",
)

_ANSWER_CUT = RunError(
    RunErrorCode.SERVER_ERROR,
    "The server stopped while the model was answering. The run asks the model again.",
    "ANSWER_INTERRUPTED",
)


def take_up(tx: Transaction, events: list[EventDraft], run: Run, stored: list[RunEvent]) -> Run:
    """Bring a run back to its last complete step; or end it, when code of it may have run without its result.

    ``stored`` are the run's events. Steps that were open end as far as their readers saw them.
    """
    unfinished = unfinished_from(stored)
    if run.status is RunStatus.CANCELLING:
        return close_run(tx, events, run, RunStatus.CANCELLED, unfinished=unfinished)
    run_steps = steps.list_of_run(tx.connection, run.project, run.id)
    open_steps = [step for step in run_steps if step.status is StepStatus.IN_PROGRESS]
    if any(_code_may_have_run(step, unfinished) for step in open_steps):
        return close_run(tx, events, run, RunStatus.FAILED, unfinished=unfinished, error=_CODE_WAS_RUNNING)
    for step in open_steps:
        reason = MessageIncompleteReason.RUN_FAILED
        error = _CODE_CUT if _code_was_interrupted(step, unfinished) else _ANSWER_CUT
        close_step(tx, events, run_steps, step, StepStatus.FAILED, reason, unfinished, error)
    return runs.get(tx.connection, run.project, run.id) or run


def _code_was_interrupted(step: RunStep, unfinished: Unfinished) -> bool:
    """Whether code of a step was ended by the server, which has stored how."""
    seen = unfinished.details.get(step.id, step.details)
    return isinstance(seen, ToolCalls) and any(
        isinstance(call, CodeInterpreterCall)
        and call.result is not None
        and call.result.status is ExecutionStatus.INTERRUPTED
        for call in seen.calls
    )


def _code_may_have_run(step: RunStep, unfinished: Unfinished) -> bool:
    """Whether a call was begun of which no result is known. The row knows: it is written before code runs."""
    if not isinstance(step.details, ToolCalls):
        return False
    seen = unfinished.details.get(step.id)
    finished = {
        call.id
        for call in (seen.calls if isinstance(seen, ToolCalls) else ())
        if isinstance(call, CodeInterpreterCall) and call.result is not None
    }
    return any(
        isinstance(call, CodeInterpreterCall)
        and call.execution_id is not None
        and call.result is None
        and call.id not in finished
        for call in step.details.calls
    )
