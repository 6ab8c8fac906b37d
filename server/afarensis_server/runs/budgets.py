"""What the model calls of a run take of its token budgets, which count over all of them."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from ..domain.runs import Run, RunIncompleteReason, RunStep, Usage
from .models.protocol import Finish, FinishReason, ModelEvent, ModelRequest, ModelUsage
from .models.usage import UsageEstimator

#: An answer is cut off here once it is, by our estimate, so many times as long as the endpoint was told it may be. The
#: estimate may be off by a quarter: an endpoint that keeps the limit is to be the one that cuts.
_PATIENCE = 1.5


def used_so_far(run_steps: Iterable[RunStep]) -> Usage:
    """The tokens of all model calls that a run's steps tell of: each call's usage stands with the last step it made."""
    return sum((step.usage for step in run_steps if step.usage is not None), Usage())


class Budget:
    """The tokens of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told = Usage()
        #: What the present or last call took, until a step tells.
        self._estimator: UsageEstimator | None = None
        self._counted: Usage | None = None

    def note_steps(self, run_steps: Iterable[RunStep]) -> None:
        """Take the steps' word, now that the last call is over and all it made is stored."""
        self._told = used_so_far(run_steps)
        self._estimator = self._counted = None

    def take(self) -> Usage:
        """What the call that is over took, for the step that tells of it from now on."""
        taken, self._estimator, self._counted = self.untold, None, None
        return taken

    @property
    def untold(self) -> Usage:
        """What was used that no step tells of: by a call that was cut off, cancelled or failed."""
        if self._counted is not None:
            return self._counted
        return Usage() if self._estimator is None else self._estimator.usage

    def exhausted(self, request: ModelRequest) -> RunIncompleteReason | None:
        """Which budget is used up, or would be by the prompt of this call."""
        if request.max_completion_tokens is not None and request.max_completion_tokens <= 0:
            return RunIncompleteReason.MAX_COMPLETION_TOKENS
        if self._run.max_prompt_tokens is not None:
            left = self._run.max_prompt_tokens - self._told.prompt_tokens
            if left <= 0 or UsageEstimator(request).prompt_tokens > left:
                return RunIncompleteReason.MAX_PROMPT_TOKENS
        return None

    async def watched(
        self, request: ModelRequest, events: AsyncIterator[ModelEvent]
    ) -> AsyncGenerator[ModelEvent, None]:
        """The events of a call, counted; cut off where the endpoint does not see to the limit."""
        self._estimator = estimator = UsageEstimator(request)
        limit = request.max_completion_tokens
        async for event in events:
            estimator.note(event)
            if isinstance(event, ModelUsage):
                self._counted = event.usage
            yield event
            if limit is not None and estimator.completion_tokens > limit * _PATIENCE:
                self._counted = estimator.usage
                yield Finish(FinishReason.LENGTH)
                return
