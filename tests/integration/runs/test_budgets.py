"""Token budgets of runs, and what was used where the endpoint does not say."""

import asyncio
from dataclasses import replace

import pytest

from afarensis_server.domain.runs import RunIncompleteReason, RunStatus, StepStatus, Usage
from afarensis_server.runs.models.usage import ESTIMATOR
from afarensis_server.store.pages import PageRequest
from tests.support.scripted_model import Cut, Turn, Wait, call, text

from .conftest import LOOKUP, PROJECT, Build


def uncounted(turn: Turn) -> Turn:
    """An answer of an endpoint that does not count."""
    return replace(turn, usage=None)


async def test_usage_that_the_endpoint_does_not_tell_is_estimated_and_says_so(house: Build) -> None:
    built = await house([uncounted(text("word " * 100))])
    run = await built.settled(await built.run())
    assert run.usage is not None
    assert run.usage.completion_tokens == 125
    assert run.usage.prompt_tokens > 0
    assert run.usage.estimator == ESTIMATOR
    (step,) = (await built.runs.list_steps(PROJECT, run.id, PageRequest())).items
    assert step.usage == run.usage


async def test_budget_ends_also_where_the_endpoint_does_not_count(house: Build) -> None:
    endless = [uncounted(call("nothing", {"why": "x" * 400})) for _ in range(50)]
    built = await house(endless)
    run = await built.settled(await built.run(LOOKUP, max_completion_tokens=256))
    assert run.status is RunStatus.INCOMPLETE
    assert run.incomplete_reason is RunIncompleteReason.MAX_COMPLETION_TOKENS
    assert len(built.endpoint.requests) == 3


async def test_prompt_that_is_larger_than_the_budget_is_never_sent(house: Build) -> None:
    built = await house([text("never asked")])
    run = await built.settled(await built.run(instructions="word " * 2_000, max_prompt_tokens=256))
    assert run.status is RunStatus.INCOMPLETE
    assert run.incomplete_reason is RunIncompleteReason.MAX_PROMPT_TOKENS
    assert built.endpoint.requests == []
    assert run.usage == Usage()


async def test_answer_is_cut_where_the_endpoint_does_not_see_to_the_limit(house: Build) -> None:
    built = await house([text(*["word " * 40] * 100)])
    run = await built.settled(await built.run(max_completion_tokens=256))
    assert run.status is RunStatus.INCOMPLETE
    assert run.incomplete_reason is RunIncompleteReason.MAX_COMPLETION_TOKENS
    assert run.usage is not None
    assert 256 < run.usage.completion_tokens < 512


async def test_answer_that_was_cancelled_counts_as_far_as_it_came(house: Build) -> None:
    built = await house([text("word " * 100).then(Wait(asyncio.Event()))])
    run = await built.run()
    async for event in built.runs.follow_events(PROJECT, run.id, 0, 60.0):
        if getattr(event, "type", "") == "thread.message.delta":
            break
    await built.runs.cancel(PROJECT, run.id)
    run = await built.settled(run)
    assert run.status is RunStatus.CANCELLED
    assert run.usage is not None
    assert (run.usage.completion_tokens, run.usage.estimator) == (125, ESTIMATOR)
    (step,) = (await built.runs.list_steps(PROJECT, run.id, PageRequest())).items
    assert (step.status, step.usage) == (StepStatus.CANCELLED, run.usage)


@pytest.mark.parametrize("reset", [True, False])
async def test_answer_that_broke_off_counts_as_far_as_it_came(house: Build, reset: bool) -> None:
    built = await house([text("word " * 100).then(Cut(reset=reset))])
    run = await built.settled(await built.run())
    assert run.status is RunStatus.FAILED
    assert run.usage is not None
    assert run.usage.completion_tokens == 125


async def test_usage_of_calls_is_not_counted_twice(house: Build) -> None:
    built = await house([call("nothing", {}), call("nothing", {}), text("Done.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.status is RunStatus.COMPLETED
    assert run.usage == Usage(300, 60)
