"""Token budgets of runs, and what was used where the endpoint does not say."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from afarensis_server.domain.runs import RunIncompleteReason, RunStatus, StepStatus, Usage
from afarensis_server.runs.models.usage import ESTIMATOR
from afarensis_server.store.pages import PageRequest
from tests.support.scripted_model import Cut, Request, Turn, Wait, call, error, text

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


TOO_LONG = error(400, "This model's maximum context length is 500 tokens.", code="context_length_exceeded")


def short_sighted(most: int) -> Callable[[Request], Turn]:
    """A model that takes so many characters of messages, and says when there are more."""

    def answer(request: Request) -> Turn:
        size = sum(len(str(message["content"])) for message in request.body["messages"])
        return text("Read.") if size <= most else TOO_LONG

    return answer


async def test_thread_that_is_too_long_for_the_model_is_shortened_by_its_oldest_messages(house: Build) -> None:
    built = await house(short_sighted(5_000))
    thread = await built.threads.create(
        PROJECT, {}, [{"text": f"message {number} ".ljust(400, ".")} for number in range(60)]
    )
    assistant = await built.assistant()
    run = await built.settled(await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}))
    assert run.status is RunStatus.COMPLETED
    asked = "".join(str(message["content"]) for message in built.endpoint.requests[-1].body["messages"])
    read = [int(number) for number in re.findall(r"message (\d+) ", asked)]
    assert read == list(range(60 - len(read), 60))
    assert 1 < len(read) < 15


async def test_single_message_that_is_too_long_for_the_model_fails_the_run_and_says_so(house: Build) -> None:
    built = await house(short_sighted(5_000))
    thread = await built.thread("word " * 2_000)
    assistant = await built.assistant()
    run = await built.settled(await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}))
    assert run.status is RunStatus.FAILED
    assert run.last_error is not None
    assert run.last_error.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert len(built.endpoint.requests) < 10
