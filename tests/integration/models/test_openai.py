"""The OpenAI provider against a real HTTP endpoint, its faults included."""

import asyncio
import json
import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
from pydantic import SecretStr

from afarensis_server.domain.runs import RunErrorCode, Usage
from afarensis_server.domain.tools import CodeInterpreterTool, FunctionTool
from afarensis_server.runs.models.answers import joined
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.openai import OpenAIModel
from afarensis_server.runs.models.protocol import (
    AssistantMessage,
    Finish,
    FinishReason,
    ImageBytes,
    Model,
    ModelError,
    ModelErrorReason,
    ModelEvent,
    ModelRequest,
    ModelUsage,
    PromptToolCall,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from afarensis_server.runs.models.registry import check
from afarensis_server.runs.models.retry import RetrySettings
from afarensis_server.runs.models.served import ServedEndpoint
from tests.support.scripted_model import (
    Cut,
    Delta,
    Pause,
    Raw,
    Script,
    ScriptedModel,
    Turn,
    Wait,
    calls,
    code,
    error,
    text,
)

QUESTION = ModelRequest("scripted", (UserMessage((TextPart("Hello"),)),))
NO_RETRY = {"x-should-retry": "false"}


@asynccontextmanager
async def talking(
    script: Script,
    *,
    key: str | None = "sk-secret-key",
    stall_seconds: float = 5.0,
    timeout_seconds: float = 10.0,
    max_retries: int = 2,
) -> AsyncIterator[tuple[ScriptedModel, Model]]:
    async with ScriptedModel(script) as endpoint:
        settings = EndpointSettings(
            endpoint.base_url,
            None if key is None else SecretStr(key),
            timeout_seconds=timeout_seconds,
            stall_seconds=stall_seconds,
            max_retries=max_retries,
        )
        async with OpenAIModel(settings) as model:
            yield endpoint, ServedEndpoint(settings, model, RetrySettings())


async def answer(model: Model, request: ModelRequest = QUESTION) -> list[ModelEvent]:
    """The answer, with pieces that came together in one, as they may come or not."""
    async with aclosing(model.stream(request)) as events:
        return list(joined([event async for event in events]))


async def tell(model: Model, told: list[ModelEvent]) -> None:
    """Append the answer to a list, as far as it comes."""
    async with aclosing(model.stream(QUESTION)) as events:
        async for event in events:
            told.append(event)  # noqa: PERF401  what came before an error counts


async def failure(script: Script, request: ModelRequest = QUESTION, *, max_retries: int = 0) -> ModelError:
    async with talking(script, max_retries=max_retries) as (_, model):
        with pytest.raises(ModelError) as raised:
            await answer(model, request)
    return raised.value


def said(events: Sequence[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_an_answer_ends_with_usage_and_finish() -> None:
    async with talking([text("Hel", "lo")]) as (endpoint, model):
        events = await answer(model)
    assert events == [
        TextDelta("Hello"),
        ModelUsage(Usage(100, 20)),
        Finish(FinishReason.STOP),
    ]
    assert endpoint.requests[0].headers["authorization"] == "Bearer sk-secret-key"


async def test_text_arrives_before_the_answer_is_complete() -> None:
    rest = asyncio.Event()
    script = [text("now").then(Wait(rest), Delta({"content": " and then"}))]
    async with talking(script) as (_, model), aclosing(model.stream(QUESTION)) as events:
        assert await anext(events) == TextDelta("now")
        rest.set()
        assert said([event async for event in events]) == " and then"


async def test_calls_arrive_in_fragments_with_their_ids() -> None:
    script = [calls(("call_a", "f", '{"x": 1}'), ("call_b", "g", "{}"), fragments=2)]
    async with talking(script) as (_, model):
        events = await answer(model)
    assert events[:4] == [
        ToolCallDelta(0, "call_a", "f", ""),
        ToolCallDelta(0, arguments_json='{"x": 1}'),
        ToolCallDelta(1, "call_b", "g", ""),
        ToolCallDelta(1, arguments_json="{}"),
    ]
    assert events[-1] == Finish(FinishReason.TOOL_CALLS)


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with talking([text("ok")], key=None) as (endpoint, model):
        await answer(model)
    assert "authorization" not in endpoint.requests[0].headers


async def test_credentials_in_the_url_are_sent_as_such() -> None:
    async with ScriptedModel([text("ok")]) as endpoint:
        url = endpoint.base_url.replace("http://", "http://me:p%40ss@")
        async with OpenAIModel(EndpointSettings(base_url=url)) as model:
            await answer(model)
    assert endpoint.requests[0].headers["authorization"] == f"Basic {b64encode(b'me:p@ss').decode()}"


async def test_closing_the_answer_closes_the_response_at_once() -> None:
    never = asyncio.Event()
    async with talking([text("a").then(Wait(never))]) as (endpoint, model):
        async with aclosing(model.stream(QUESTION)) as events:
            await anext(events)
        async with asyncio.timeout(5):
            await endpoint.requests[0].abandoned.wait()


async def test_cancelling_the_reader_closes_the_response_at_once() -> None:
    never = asyncio.Event()
    async with talking([text("a").then(Wait(never))]) as (endpoint, model):
        first = asyncio.Event()

        async def read() -> None:
            async with aclosing(model.stream(QUESTION)) as events:
                async for _ in events:
                    first.set()

        reader = asyncio.create_task(read())
        await first.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        async with asyncio.timeout(5):
            await endpoint.requests[0].abandoned.wait()


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_refused_connection_names_the_setting() -> None:
    async with ScriptedModel([]) as endpoint:
        base_url = endpoint.base_url
    async with OpenAIModel(EndpointSettings(base_url, max_retries=0)) as model:
        with pytest.raises(ModelError, match="the connection was refused") as raised:
            await answer(model)
    assert raised.value.code is RunErrorCode.SERVER_ERROR
    assert raised.value.reason is ModelErrorReason.MODEL_UNREACHABLE
    assert "AFARENSIS_OPENAI_BASE_URL" in raised.value.message


async def test_unknown_host_is_told_without_the_credentials_of_the_url() -> None:
    url = "http://user:hunter2@no-such-host.invalid/v1"
    async with OpenAIModel(EndpointSettings(url, max_retries=0)) as model:
        with pytest.raises(ModelError) as raised:
            await answer(model)
    assert raised.value.reason is ModelErrorReason.MODEL_UNREACHABLE
    assert "http://no-such-host.invalid/v1 cannot be reached" in raised.value.message
    assert "hunter2" not in raised.value.message
    assert "hunter2" not in repr(EndpointSettings(url, SecretStr("hunter2")))


@pytest.mark.parametrize("url", ["localhost:11434/v1", "ftp://host/v1", "http://", "http://host/v1/chat/completions"])
def test_base_url_that_cannot_be_is_refused_by_the_settings(url: str) -> None:
    with pytest.raises(ValueError, match="AFARENSIS_OPENAI_BASE_URL"):
        check([EndpointSettings(url)])


@pytest.mark.parametrize("key", ["sk-key\n", "sk key", "sk-kéy"])
def test_key_that_cannot_be_is_refused_by_the_settings_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match="AFARENSIS_OPENAI_API_KEY") as raised:
        EndpointSettings("http://host/v1", SecretStr(key))
    assert key not in str(raised.value)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_name_the_setting_and_never_the_key(status: int) -> None:
    raised = await failure([error(status, "Incorrect API key provided: sk-secret-key")])
    assert raised.reason is ModelErrorReason.MODEL_CREDENTIALS_REFUSED
    assert "AFARENSIS_OPENAI_API_KEY" in raised.message
    assert "sk-secret" not in raised.message


async def test_keys_repeated_by_the_endpoint_are_blotted_out() -> None:
    raised = await failure([error(400, "Bad request of Bearer abc.def.ghi with key sk-secret-key")])
    assert "secret" not in raised.message
    assert "abc.def" not in raised.message
    assert raised.code is RunErrorCode.INVALID_PROMPT


async def test_unknown_model_is_named() -> None:
    raised = await failure([error(404, "model 'scripted' not found, try pulling it first")])
    assert raised.reason is ModelErrorReason.MODEL_UNKNOWN
    assert "'scripted'" in raised.message
    assert "try pulling it first" in raised.message


async def test_rate_limit_that_stays_is_reported_as_such() -> None:
    script = [error(429, "You exceeded your current quota", {"retry-after-ms": "1"})] * 3
    raised = await failure(script, max_retries=2)
    assert raised.code is RunErrorCode.RATE_LIMIT_EXCEEDED
    assert "You exceeded your current quota" in raised.message


@pytest.mark.parametrize(
    "turn",
    [
        error(400, "This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
        error(
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: 9. This model's maximum context length is 8 tokens; "
            "this is not supported",
        ),
        error(400, "the request exceeds the available context size", type="exceed_context_size_error"),
        error(500, "the request exceeds the available context size", NO_RETRY, type="exceed_context_size_error"),
        error(400, "The input (9 tokens) is longer than the model's context length (8 tokens)."),
        error(400, "ContextWindowExceededError: Context Window exceeded for given call."),
    ],
)
async def test_too_long_prompts_are_told_apart(turn: Turn) -> None:
    raised = await failure([turn])
    assert raised.context_length_exceeded
    assert raised.code is RunErrorCode.INVALID_PROMPT


async def test_html_error_pages_are_not_repeated() -> None:
    raised = await failure([Turn(status=502, body="<html><h1>Bad gateway</h1></html>")])
    assert "failed (502)." in raised.message
    assert "<" not in raised.message


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("reset", [True, False])
async def test_stream_cut_in_the_middle_is_never_a_success(*, chunked: bool, reset: bool) -> None:
    turn = Turn((Delta({"content": "The answer is"}), Cut(reset=reset)), chunked=chunked)
    async with talking([turn]) as (_, model):
        events: list[ModelEvent] = []
        with pytest.raises(ModelError) as raised:
            async with aclosing(model.stream(QUESTION)) as stream:
                events.extend([event async for event in stream])
    assert raised.value.code is RunErrorCode.SERVER_ERROR
    assert raised.value.reason is ModelErrorReason.MODEL_ANSWER_BROKEN
    assert not any(isinstance(event, Finish) for event in events)


async def test_cut_behind_the_finish_loses_only_the_usage() -> None:
    finish = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    async with talking([text("all").then(Raw(finish), Cut(reset=False))]) as (_, model):
        assert await answer(model) == [TextDelta("all"), Finish(FinishReason.STOP)]


async def test_silence_behind_the_finish_loses_only_the_usage() -> None:
    finish = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    script = [text("all").then(Raw(finish), Wait(asyncio.Event()))]
    async with talking(script, stall_seconds=0.2) as (_, model):
        assert await answer(model) == [TextDelta("all"), Finish(FinishReason.STOP)]


async def test_silence_before_the_answer_is_a_timeout() -> None:
    never = asyncio.Event()
    async with talking([Turn().first(Wait(never))], stall_seconds=0.2, max_retries=0) as (_, model):
        with pytest.raises(ModelError, match=r"sent nothing for 0\.2 seconds") as raised:
            await answer(model)
    assert raised.value.reason is ModelErrorReason.MODEL_TIMEOUT
    assert "AFARENSIS_OPENAI_STALL_SECONDS" in raised.value.message


async def test_silence_within_the_answer_is_a_timeout() -> None:
    never = asyncio.Event()
    async with talking([text("a").then(Wait(never))], stall_seconds=0.2) as (endpoint, model):
        with pytest.raises(ModelError, match="sent nothing"):
            await answer(model)
    assert len(endpoint.requests) == 1


async def test_answer_that_never_ends_is_stopped() -> None:
    drip = tuple(step for _ in range(1000) for step in (Raw(b": still here\n\n"),))
    never = asyncio.Event()
    async with talking([Turn((*drip, Wait(never)))], timeout_seconds=0.3) as (_, model):
        with pytest.raises(ModelError, match=r"did not finish its answer within 0\.3 seconds"):
            await answer(model)


async def test_answer_that_drips_on_is_stopped_in_time() -> None:
    # Never silent for as long as the client waits for more.
    drip = [step for _ in range(1_000) for step in (Raw(b": still here\n\n"), Pause(0.05))]
    async with talking([Turn(tuple(drip))], stall_seconds=0.4, timeout_seconds=1.0) as (_, model):
        began = time.monotonic()
        with pytest.raises(ModelError, match=r"did not finish its answer within 1 seconds"):
            await answer(model)
        assert time.monotonic() - began < 30


async def test_words_before_a_broken_event_of_the_same_piece_are_told() -> None:
    chunks = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("a", "b")]
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    async with talking([Turn((Raw(b"".join(events) + b"data: {broken\n\ndata: [DONE]\n\n"),))]) as (_, model):
        told: list[ModelEvent] = []
        with pytest.raises(ModelError) as raised:
            await tell(model, told)
    assert said(told) == "ab"
    assert raised.value.reason is ModelErrorReason.MODEL_ANSWER_BROKEN


async def test_error_event_within_the_stream_is_reported() -> None:
    event = b'data: {"error": {"message": "CUDA out of memory", "code": 500}}\n\n'
    raised = await failure([text("a").then(Raw(event))])
    assert raised.code is RunErrorCode.SERVER_ERROR
    assert "CUDA out of memory" in raised.message


@pytest.mark.parametrize("data", [b"data: {broken\n\n", b"data: [1]\n\n", b'data: {"choices": [5]}\n\n'])
async def test_malformed_events_are_reported(data: bytes) -> None:
    raised = await failure([text("a").then(Raw(data))])
    assert raised.reason is ModelErrorReason.MODEL_ANSWER_BROKEN


async def test_web_page_instead_of_a_stream_points_at_the_base_url() -> None:
    raised = await failure([Turn(body="<html>Welcome to nginx</html>")])
    assert "text/html" in raised.message
    assert "AFARENSIS_OPENAI_BASE_URL" in raised.message


# --- dialects ---------------------------------------------------------------------------------------------------------


async def test_fields_that_an_endpoint_refuses_are_left_out_from_then_on() -> None:
    script = [
        error(400, "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options')}]"),
        error(422, "Unrecognized request argument supplied: parallel_tool_calls"),
        error(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        text("first"),
        text("second"),
    ]
    request = ModelRequest(
        "scripted",
        QUESTION.messages,
        tools=(FunctionTool("f"),),
        parallel_tool_calls=False,
        max_completion_tokens=300,
    )
    async with talking(script) as (endpoint, model):
        assert await answer(model, request) == [TextDelta("first"), Finish(FinishReason.STOP)]
        assert said(await answer(model, request)) == "second"
    assert len(endpoint.requests) == 5
    full, learned = endpoint.requests[0].body, endpoint.requests[-1].body
    assert full["stream_options"] == {"include_usage": True}
    assert full["max_tokens"] == 300
    assert full["parallel_tool_calls"] is False
    assert learned["max_completion_tokens"] == 300
    assert not {"stream_options", "max_tokens", "parallel_tool_calls"} & learned.keys()


async def test_images_that_code_showed_are_left_out_for_a_model_without_vision() -> None:
    request = ModelRequest(
        "scripted",
        (
            *QUESTION.messages,
            AssistantMessage(tool_calls=(PromptToolCall("call_1", "code_interpreter", "{}"),)),
            ToolMessage("call_1", "[status: ok]", (ImageBytes(b"png", "image/png"),)),
        ),
        tools=(CodeInterpreterTool(),),
    )
    script = [error(500, "image input is not supported - hint: provide the mmproj", NO_RETRY), text("ok")]
    async with talking(script) as (endpoint, model):
        assert said(await answer(model, request)) == "ok"
    assert endpoint.requests[0].body["messages"][-1]["content"][1]["type"] == "image_url"
    assert endpoint.requests[1].body["messages"][-1]["role"] == "tool"


async def test_refusal_of_what_the_client_asked_for_is_reported() -> None:
    raised = await failure([error(400, "Unsupported value: 'temperature' does not support 0.2 with this model.")])
    assert raised.reason is ModelErrorReason.MODEL_REQUEST_REFUSED
    assert "'temperature' does not support 0.2" in raised.message


async def test_many_answers_stream_side_by_side() -> None:
    async with talking(lambda request: text(request.body["messages"][0]["content"])) as (_, model):
        requests = [ModelRequest("scripted", (UserMessage((TextPart(f"number {n}"),)),)) for n in range(50)]
        answers = await asyncio.gather(*(answer(model, request) for request in requests))
    assert [said(events) for events in answers] == [f"number {n}" for n in range(50)]


async def test_nothing_of_a_conversation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with talking([error(500, "no", {"retry-after-ms": "1"}), code("print('private')")]) as (_, model):
        await answer(model, ModelRequest("scripted", (UserMessage((TextPart("private"),)),)))
    assert "private" not in caplog.text
    assert "sk-secret" not in caplog.text
