"""Calls that are tried again, and calls that wait in line, against a real HTTP endpoint."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from afarensis_server.domain.runs import RunErrorCode
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.openai import OpenAIModel
from afarensis_server.runs.models.protocol import (
    AssistantMessage,
    Finish,
    FinishReason,
    ImageBytes,
    ImageUrl,
    Model,
    ModelError,
    ModelErrorReason,
    ModelEvent,
    ModelRequest,
    PromptToolCall,
    TextDelta,
    TextPart,
    ToolMessage,
    UserMessage,
)
from afarensis_server.runs.models.retry import RetrySettings
from afarensis_server.runs.models.served import ServedEndpoint
from tests.support.scripted_model import Cut, Delta, Raw, Request, Script, ScriptedModel, Turn, Wait, error, text

IMPATIENT = RetrySettings(backoff_seconds=0.01)
OVERLOADED = Raw(b'data: {"error": {"message": "overloaded", "type": "overloaded_error"}}\n\n')


def question(words: str = "Hello", expires_in: float | None = None) -> ModelRequest:
    deadline = None if expires_in is None else datetime.now(UTC) + timedelta(seconds=expires_in)
    return ModelRequest("scripted", (UserMessage((TextPart(words),)),), deadline=deadline)


@asynccontextmanager
async def serving(
    script: Script, retry: RetrySettings = IMPATIENT, *, max_retries: int = 2, concurrency: int = 10
) -> AsyncIterator[tuple[ScriptedModel, Model]]:
    async with ScriptedModel(script) as endpoint:
        settings = EndpointSettings(endpoint.base_url, max_retries=max_retries, concurrency=concurrency)
        async with OpenAIModel(settings) as model:
            yield endpoint, ServedEndpoint(settings, model, retry)


async def answer(model: Model, request: ModelRequest | None = None) -> list[ModelEvent]:
    async with aclosing(model.stream(request or question())) as events:
        return [event async for event in events]


def said(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def failure(model: Model, request: ModelRequest | None = None) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await answer(model, request)
    return raised.value


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        error(429, "slow down"),
        error(500, "oops"),
        error(503, "busy", {"retry-after": "0"}),
        Turn(status=502, body="<html>Bad gateway</html>"),
        Turn((Cut(),)),
        Turn((Cut(reset=False),)),
        Turn((Cut(reset=False),), chunked=False),
        Turn((OVERLOADED,), finish=None),
        Turn((Delta({"role": "assistant", "content": ""}), OVERLOADED), finish=None),
        Turn((Delta({"reasoning_content": "Hm."}), Cut())),
        Turn((Delta({"reasoning_content": "Hm."}),)),
    ],
    ids=[
        "429",
        "500",
        "503",
        "html",
        "reset",
        "cut",
        "cut unchunked",
        "event",
        "event behind role",
        "thinking",
        "empty",
    ],
)
async def test_fault_before_the_answer_is_seen_is_tried_again(fault: Turn) -> None:
    async with serving([fault, fault, text("ok")]) as (endpoint, model):
        assert said(await answer(model)) == "ok"
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("fault", [Cut(), OVERLOADED], ids=["cut", "event"])
async def test_fault_behind_words_is_not_tried_again(fault: Cut | Raw) -> None:
    async with serving([text("So far").then(fault), text("again")]) as (endpoint, model):
        events: list[ModelEvent] = []

        async def read() -> None:
            async with aclosing(model.stream(question())) as stream:
                async for event in stream:
                    events.append(event)  # noqa: PERF401  # what came before the error is kept

        with pytest.raises(ModelError) as raised:
            await read()
    assert events == [TextDelta("So far")]
    assert "Tried" not in raised.value.message
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_refusal_is_not_tried_again(status: int) -> None:
    async with serving([error(status, "no"), text("ok")]) as (endpoint, model):
        await failure(model)
    assert len(endpoint.requests) == 1


async def test_endpoint_that_was_down_is_found_when_it_is_up() -> None:
    patient = RetrySettings(backoff_seconds=0.05, max_backoff_seconds=0.05)
    async with serving([text("ok")], patient, max_retries=500) as (endpoint, model):
        await endpoint.__aexit__(None, None, None)
        waiting = asyncio.create_task(answer(model))
        # However many attempts fall into this time: the call outlasts it.
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await endpoint.__aenter__()
        assert said(await waiting) == "ok"


@pytest.mark.parametrize(
    ("header", "least"),
    [
        (lambda: {"retry-after": "1"}, 1.0),
        (lambda: {"retry-after-ms": "300", "retry-after": "60"}, 0.3),
        # A date has whole seconds: this one is 1 to 2 seconds ahead.
        (lambda: {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)}, 0.9),
    ],
    ids=["seconds", "milliseconds", "date"],
)
async def test_the_wait_that_the_endpoint_asks_for_is_kept(header: Callable[[], dict[str, str]], least: float) -> None:
    times: list[float] = []

    def script(request: Request) -> Turn:
        times.append(time.monotonic())
        return error(429, "slow down", header()) if len(times) == 1 else text("ok")

    async with serving(script) as (_, model):
        assert said(await answer(model)) == "ok"
    assert least <= times[1] - times[0] < least + 30


async def test_run_that_expires_first_fails_at_once_and_says_why() -> None:
    async with serving([error(429, "Slow down", {"retry-after": "60"}), text("ok")]) as (endpoint, model):
        begun = time.monotonic()
        failed = await failure(model, question(expires_in=5.0))
        assert time.monotonic() - begun < 30
    assert failed.code is RunErrorCode.RATE_LIMIT_EXCEEDED
    assert failed.reason is ModelErrorReason.MODEL_RATE_LIMITED
    assert "(429): Slow down. Try again later. It asks to wait 60 s, but the run expires in " in failed.message
    assert len(endpoint.requests) == 1


async def test_the_error_tells_how_often_it_was_tried_and_what_the_endpoint_said() -> None:
    async with serving([error(503, "overloaded")] * 4) as (endpoint, model):
        failed = await failure(model)
    assert failed.reason is ModelErrorReason.MODEL_FAILED
    assert " failed (503): overloaded. Try again later. Tried 3 times in " in failed.message
    assert len(endpoint.requests) == 3


async def test_account_without_money_is_not_asked_again() -> None:
    broke = error(429, "You exceeded your current quota", code="insufficient_quota")
    async with serving([broke, text("ok")]) as (endpoint, model):
        failed = await failure(model)
    assert failed.code is RunErrorCode.RATE_LIMIT_EXCEEDED
    assert len(endpoint.requests) == 1


async def test_cancelling_during_the_wait_ends_it_at_once() -> None:
    asked = asyncio.Event()

    def script(request: Request) -> Turn:
        asked.set()
        return error(429, "slow down", {"retry-after": "60"})

    async with serving(script) as (endpoint, model):
        waiting = asyncio.create_task(answer(model))
        await asked.wait()
        begun = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert time.monotonic() - begun < 30
    assert len(endpoint.requests) == 1


# --- the line ---------------------------------------------------------------------------------------------------------


async def test_endpoint_gets_no_more_calls_at_once_than_it_may_and_in_the_order_they_came() -> None:
    go_on, two_came = asyncio.Event(), asyncio.Event()

    def script(request: Request) -> Turn:
        if len(endpoint.requests) == 2:
            two_came.set()
        return text("ok").first(Wait(go_on))

    async with serving(script, concurrency=2) as (endpoint, model):
        calls = []
        for number in range(6):
            calls.append(asyncio.create_task(answer(model, question(f"{number}"))))
            await asyncio.sleep(0)
        await two_came.wait()
        # A third would be here by now.
        await asyncio.sleep(0.1)
        assert len(endpoint.requests) == 2
        go_on.set()
        assert [said(events) for events in await asyncio.gather(*calls)] == ["ok"] * 6
    asked = [request.body["messages"][0]["content"] for request in endpoint.requests]
    assert sorted(asked[:2]) == ["0", "1"]
    assert sorted(asked[2:4]) == ["2", "3"]
    assert sorted(asked[4:]) == ["4", "5"]


async def test_call_that_is_cancelled_in_line_leaves_it() -> None:
    go_on = asyncio.Event()
    async with serving(lambda _: text("ok").first(Wait(go_on)), concurrency=1) as (endpoint, model):
        first = asyncio.create_task(answer(model, question("first")))
        await asyncio.sleep(0)
        gone = asyncio.create_task(answer(model, question("gone")))
        await asyncio.sleep(0)
        last = asyncio.create_task(answer(model, question("last")))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        go_on.set()
        await asyncio.gather(first, last)
    assert [request.body["messages"][0]["content"] for request in endpoint.requests] == ["first", "last"]


async def test_place_is_free_while_a_call_waits_for_its_next_attempt() -> None:
    refused = asyncio.Event()

    def script(request: Request) -> Turn:
        if "slow" not in str(request.body):
            return text("ok")
        refused.set()
        return error(429, "slow down", {"retry-after": "60"})

    async with serving(script, concurrency=1) as (_, model):
        slow = asyncio.create_task(answer(model, question("slow")))
        await refused.wait()
        async with asyncio.timeout(5):
            assert said(await answer(model, question("quick"))) == "ok"
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow


async def test_answer_that_is_left_early_frees_its_place() -> None:
    never = asyncio.Event()
    script = [text("a").then(Wait(never)), text("b")]
    async with serving(script, concurrency=1) as (_, model):
        async with aclosing(model.stream(question())) as events:
            assert await anext(events) == TextDelta("a")
        async with asyncio.timeout(5):
            assert (await answer(model))[-1] == Finish(FinishReason.STOP)


async def test_model_that_sees_no_images_is_told_where_they_were() -> None:
    asked = UserMessage((TextPart("What is this?"), ImageBytes(b"png", "image/png"), ImageUrl("https://host/a.png")))
    shown = ToolMessage("call_1", "A chart.", (ImageBytes(b"png", "image/png"),))
    called = AssistantMessage(tool_calls=(PromptToolCall("call_1", "code_interpreter", "{}"),))
    async with ScriptedModel([text("ok")]) as endpoint:
        settings = EndpointSettings(endpoint.base_url, vision=False)
        async with OpenAIModel(settings) as model:
            await answer(ServedEndpoint(settings, model, IMPATIENT), ModelRequest("m", (asked, called, shown)))
    first, _, last = endpoint.requests[0].body["messages"]
    assert first["content"].count("(An image, which this model cannot see.)") == 2
    assert (last["role"], last["content"]) == ("tool", "A chart.")
