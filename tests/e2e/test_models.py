"""Several endpoints of language models on one server: who gets which call, and what is told of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from afarensis import v1
from tests.support import scripted_anthropic
from tests.support.api import Api, event_name, seconds, text_of
from tests.support.scripted_anthropic import ScriptedAnthropic
from tests.support.scripted_model import ScriptedModel, Turn, Wait, error, text
from tests.support.scripts import Script, Scripts
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "sk-ant-nobody-may-see-this"


@dataclass(slots=True)
class Place:
    """A server with an endpoint of each provider. Models named claude-... go to Anthropic's."""

    api: Api
    scripts: Scripts
    anthropic: ScriptedAnthropic
    claude: Scripts
    server: ServerProcess

    def script(self, *turns: Turn) -> Script:
        """A model of Anthropic's endpoint that answers so."""
        return self.claude.add(*turns)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    scripts, claude = Scripts(), Scripts("claude")
    async with ScriptedModel(scripts.next_turn) as openai, ScriptedAnthropic(claude.next_turn) as anthropic:
        table = {
            "name": "claude",
            "provider": "anthropic",
            "base_url": anthropic.base_url,
            "api_key": KEY,
            "models": ["claude-*"],
            "concurrency": 2,
        }
        settings = {
            "openai.base_url": openai.base_url,
            "models.endpoints": json.dumps([table]),
            "models.backoff_seconds": 0.01,
            "runs.default_model": "scripted-1",
        }
        with ServerProcess(tmp_path_factory.mktemp("models"), settings) as server:
            async with Api(server.address) as api:
                yield Place(api, scripts, anthropic, claude, server)


async def test_code_runs_for_a_model_of_anthropics(place: Place) -> None:
    script = place.script(
        scripted_anthropic.message(
            *scripted_anthropic.start(),
            *scripted_anthropic.thinking_block(0, "Better to compute it."),
            *scripted_anthropic.text_block(1, "I compute it."),
            *scripted_anthropic.call_block(2, "code_interpreter", {"code": "print(6 * 7)"}),
            *scripted_anthropic.end("tool_use", 30, output_tokens_details={"thinking_tokens": 10}),
        ),
        scripted_anthropic.text("It is ", "42."),
    )
    run = await place.api.settled(await place.api.run(script.model))
    assert run.status == v1.RUN_STATUS_COMPLETED, run.last_error
    said = [text_of(message) for message in await place.api.messages(run.thread_id)]
    assert said[1:] == ["I compute it.", "It is 42."]
    calls = [call for step in await place.api.steps(run) for call in step.tool_calls.tool_calls]
    (call,) = (call.code_interpreter for call in calls)
    assert call.input == "print(6 * 7)"
    assert "".join(output.output.text for output in call.outputs) == "42\n"
    assert run.usage == v1.TokenUsage(prompt_tokens=200, completion_tokens=50, total_tokens=250, reasoning_tokens=10)
    _, second = script.requests
    asked, answered = second.body["messages"][-2:]
    assert [block["type"] for block in asked["content"]] == ["text", "tool_use"]
    (result,) = answered["content"]
    assert result["tool_use_id"] == asked["content"][1]["id"]
    assert result["content"][0]["text"].startswith("42")


async def test_each_model_goes_to_its_endpoint(place: Place) -> None:
    claude, other = place.script(scripted_anthropic.text("I am Claude.")), place.scripts.add(text("I am not."))
    answers = []
    for model in (claude.model, other.model):
        run = await place.api.settled(await place.api.run(model))
        answers.append(text_of(await place.api.answer(run)))
    assert answers == ["I am Claude.", "I am not."]
    assert claude.requests[0].headers["x-api-key"] == KEY
    assert KEY not in str(other.requests[0].headers)


async def test_models_are_listed_with_their_providers(place: Place) -> None:
    listed = (await v1.ModelServiceStub(place.api.channel).ListModels(v1.ListModelsRequest())).models
    assert [(model.id, model.provider, model.is_default) for model in listed] == [
        ("direct", "direct", False),
        ("scripted-1", "openai", True),
        ("*", "openai", False),
        ("claude-*", "anthropic", False),
    ]


async def test_run_whose_endpoint_does_not_count_has_an_estimate(place: Place) -> None:
    script = place.script(
        scripted_anthropic.message(
            *scripted_anthropic.start({}),
            *scripted_anthropic.text_block(0, "x" * 40),
            *scripted_anthropic.end("end_turn", 0),
        )
    )
    run = await place.api.settled(await place.api.run(script.model))
    assert run.usage.estimator == "afarensis-chars-v1"
    assert run.usage.completion_tokens == 10
    assert run.usage.prompt_tokens > 0
    (step,) = await place.api.steps(run)
    assert step.usage == run.usage


async def test_failed_run_tells_how_often_its_model_was_asked(place: Place) -> None:
    overloaded = scripted_anthropic.error(529, "overloaded_error", f"Overloaded, {KEY}")
    script = place.script(*[overloaded] * 3)
    run = await place.api.settled(await place.api.run(script.model))
    assert (run.status, run.last_error.reason) == (v1.RUN_STATUS_FAILED, "MODEL_FAILED")
    assert " failed (529): Overloaded, ***. Try again later. Tried 3 times in " in run.last_error.message
    assert len(script.requests) == 3


async def test_run_that_would_expire_while_it_waits_fails_with_the_reason(place: Place) -> None:
    script = place.scripts.add(error(429, "Slow down", {"retry-after": "60"}))
    run = await place.api.settled(await place.api.run(script.model, ttl=seconds(20)))
    assert run.status == v1.RUN_STATUS_FAILED
    assert run.last_error.code == v1.LAST_ERROR_CODE_RATE_LIMIT_EXCEEDED
    assert "It asks to wait 60 s, but the run expires in " in run.last_error.message


async def test_run_in_line_can_be_cancelled_and_expires(place: Place) -> None:
    go_on = asyncio.Event()
    begun = (*scripted_anthropic.start(), *scripted_anthropic.text_block(0, "ok"))
    held = scripted_anthropic.message(*begun, Wait(go_on), *scripted_anthropic.end("end_turn"))
    busy = [await place.api.run(place.script(held).model) for _ in range(2)]
    for run in busy:
        await place.api.until(run.id, lambda event: event_name(event) == "message.delta")
    cancelled, expiring = place.script(), place.script()
    first = await place.api.run(cancelled.model)
    second = await place.api.run(expiring.model, ttl=seconds(1))
    await place.api.runs.CancelRun(v1.CancelRunRequest(run_id=first.id))
    assert (await place.api.settled(first)).status == v1.RUN_STATUS_CANCELLED
    assert (await place.api.settled(second)).status == v1.RUN_STATUS_EXPIRED
    assert not cancelled.requests
    assert not expiring.requests
    go_on.set()
    for run in busy:
        assert (await place.api.settled(run)).status == v1.RUN_STATUS_COMPLETED


async def test_log_holds_no_key(place: Place) -> None:
    assert KEY not in await asyncio.to_thread(place.server.log.read_text)
