"""Takes the outputs of the client's functions, and lets the run that waited for them go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..clock import now
from ..domain.events import EventDraft
from ..domain.runs import FunctionCall, Run, RunStatus, RunStep, StepStatus, ToolCalls
from ..errors import RunNotAwaitingToolOutputs, ToolOutputsMismatch
from ..store import queue, steps
from ..store.writer import Transaction
from .closing import Unfinished, close_run
from .moves import move_run, store_step
from .states import advance_step


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What the client's function returned for one call."""

    call_id: str
    output: str


def submit(
    tx: Transaction, events: list[EventDraft], run: Run, outputs: Sequence[ToolOutput]
) -> Run | RunNotAwaitingToolOutputs:
    """Queue a run with the outputs that it waits for; the same outputs once more change nothing.

    ``run`` is the row as read in this transaction. A refusal is returned where it goes with a change: a run whose time
    is over is expired here, should nobody have come by to do it. Raises RunNotAwaitingToolOutputs, ToolOutputsMismatch.
    """
    moment = now()
    if run.status is RunStatus.REQUIRES_ACTION and run.expire_time is not None and run.expire_time <= moment:
        expired = close_run(tx, events, run, RunStatus.EXPIRED, unfinished=Unfinished())
        return RunNotAwaitingToolOutputs(status=expired.status)
    run_steps = steps.list_of_run(tx.connection, run.project, run.id)
    expected = [] if run.required_action is None else [call.id for call in run.required_action.calls]
    actual = [output.call_id for output in outputs]
    if not expected or sorted(expected) != sorted(actual):
        if _were_taken(run_steps, outputs):
            return run  # the answer to the first call was lost, most likely
        if not expected:
            raise RunNotAwaitingToolOutputs(status=run.status)
        raise ToolOutputsMismatch(expected=expected, actual=actual)
    answers = {output.call_id: output.output for output in outputs}
    for step in run_steps:
        if step.status is StepStatus.IN_PROGRESS and isinstance(step.details, ToolCalls):
            details = _answered(step.details, answers)
            closed, told = advance_step(step, StepStatus.COMPLETED, moment, details, usage=step.usage)
            store_step(tx, closed)
            events.append(told)
    queued = move_run(tx, events, run, RunStatus.QUEUED)
    queue.enqueue(tx.connection, queued)
    return queued


def _answered(details: ToolCalls, answers: Mapping[str, str]) -> ToolCalls:
    return ToolCalls(
        tuple(
            replace(call, output=answers[call.id]) if isinstance(call, FunctionCall) and call.id in answers else call
            for call in details.calls
        )
    )


def _were_taken(run_steps: Sequence[RunStep], outputs: Sequence[ToolOutput]) -> bool:
    """Whether these outputs were submitted before, for calls of one step."""
    for step in run_steps:
        if step.status is StepStatus.COMPLETED and isinstance(step.details, ToolCalls):
            known = {call.id: call.output for call in step.details.calls if isinstance(call, FunctionCall)}
            if outputs and all(known.get(output.call_id) == output.output for output in outputs):
                return True
    return False
