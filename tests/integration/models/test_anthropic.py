"""The Anthropic provider against a real HTTP endpoint, its faults included."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from afarensis_server.domain.runs import RunErrorCode, Usage
from afarensis_server.domain.tools import (
    CodeInterpreterTool,
    FunctionTool,
    ResponseFormat,
    ResponseFormatType,
    ToolChoice,
    ToolChoiceMode,
)
from afarensis_server.runs.models.answers import joined
from afarensis_server.runs.models.anthropic import AnthropicModel
from afarensis_server.runs.models.endpoint import EndpointSettings
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
    ModelUsage,
    PromptToolCall,
    ReasoningDelta,
    SystemMessage,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from afarensis_server.runs.models.retry import RetrySettings
from afarensis_server.runs.models.served import ServedEndpoint
from tests.support.scripted_anthropic import (
    ScriptedAnthropic,
    call_block,
    code,
    end,
    error,
    error_event,
    event,
    message,
    start,
    text,
    text_block,
    thinking_block,
)
from tests.support.scripted_model import Cut, Raw, Script, Turn, Wait

KEY = "sk-ant-secret-key"
HELLO = UserMessage((TextPart("Hello"),))
QUESTION = ModelRequest("claude-x", (HELLO,))
LOOKUP = FunctionTool("lookup", "Looks a word up.", '{"type": "object", "properties": {"word": {"type": "string"}}}')
CODE = CodeInterpreterTool()


@asynccontextmanager
async def talking(
    script: Script, *, key: str | None = KEY, **fields: Any
) -> AsyncIterator[tuple[ScriptedAnthropic, Model]]:
    async with ScriptedAnthropic(script) as endpoint:
        settings = EndpointSettings(
            endpoint.base_url,
            None if key is None else SecretStr(key),
            name="claude",
            provider="anthropic",
            **{"stall_seconds": 5.0, "timeout_seconds": 10.0, **fields},
        )
        async with AnthropicModel(settings) as model:
            yield endpoint, ServedEndpoint(settings, model, RetrySettings(backoff_seconds=0.01))


async def answer(model: Model, request: ModelRequest = QUESTION) -> list[ModelEvent]:
    """The answer, with pieces that came together in one, as they may come or not."""
    async with aclosing(model.stream(request)) as events:
        return list(joined([event async for event in events]))


async def asked(request: ModelRequest, **fields: Any) -> dict[str, Any]:
    """The body that is sent for a request."""
    async with talking([text("ok")], **fields) as (endpoint, model):
        await answer(model, request)
    return endpoint.requests[0].body


async def failure(script: Script, request: ModelRequest = QUESTION, **fields: Any) -> ModelError:
    async with talking(script, **{"max_retries": 0, **fields}) as (_, model):
        with pytest.raises(ModelError) as raised:
            await answer(model, request)
    assert KEY not in raised.value.message
    return raised.value


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_an_answer_ends_with_usage_and_finish() -> None:
    async with talking([text("Hel", "lo")]) as (endpoint, model):
        assert await answer(model) == [
            TextDelta("Hello"),
            ModelUsage(Usage(100, 20)),
            Finish(FinishReason.STOP),
        ]
    (request,) = endpoint.requests
    assert request.headers["x-api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.body == {
        "model": "claude-x",
        "max_tokens": 16_384,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "stream": True,
    }


async def test_text_arrives_before_the_answer_is_complete() -> None:
    rest = asyncio.Event()
    begun = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "now"})
    script = [message(*start(), begun, Wait(rest), *text_block(1, " and then"), *end("end_turn"))]
    async with talking(script) as (_, model), aclosing(model.stream(QUESTION)) as events:
        assert await anext(events) == TextDelta("now")
        rest.set()
        assert await anext(events) == TextDelta(" and then")


async def test_calls_arrive_in_fragments_behind_words_and_thoughts() -> None:
    turn = message(
        *start(),
        *thinking_block(0, "Let me ", "see."),
        event("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "x"}),
        event("content_block_stop", index=1),
        *text_block(2, "I look."),
        *call_block(3, "lookup", {"word": "penguin"}, "toolu_a"),
        *call_block(4, "now", {}, "toolu_b"),
        *end("tool_use"),
    )
    async with talking([turn]) as (_, model):
        events = await answer(model)
    assert events[:3] == [
        ReasoningDelta("Let me see."),
        TextDelta("I look."),
        ToolCallDelta(0, "toolu_a", "lookup"),
    ]
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    assert len([piece for piece in pieces if piece.index == 0]) == 2
    assert json.loads("".join(piece.arguments_json for piece in pieces if piece.index == 0)) == {"word": "penguin"}
    assert pieces[-2:] == [ToolCallDelta(1, "toolu_b", "now"), ToolCallDelta(1, arguments_json="{}")]
    assert events[-1] == Finish(FinishReason.TOOL_CALLS)


async def test_arguments_that_come_whole_are_taken() -> None:
    whole = {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"word": "auk"}}
    begun = event("content_block_start", index=0, content_block=whole)
    turn = message(*start(), begun, event("content_block_stop", index=0), *end("tool_use"))
    async with talking([turn]) as (_, model):
        events = await answer(model)
    assert events[1] == ToolCallDelta(0, arguments_json='{"word": "auk"}')


async def test_tokens_of_the_cache_and_of_thinking_are_counted() -> None:
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60, "output_tokens": 1}
    details = {"thinking_tokens": 7}
    turn = message(*start(usage), *text_block(0, "ok"), *end("end_turn", 25, output_tokens_details=details))
    async with talking([turn]) as (_, model):
        events = await answer(model)
    assert events[-2] == ModelUsage(Usage(100, 25, cached_prompt_tokens=60, reasoning_tokens=7))


async def test_endpoint_that_does_not_count_says_nothing_of_usage() -> None:
    async with talking([message(*start({}), *text_block(0, "ok"), *end("end_turn", 0))]) as (_, model):
        assert await answer(model) == [TextDelta("ok"), Finish(FinishReason.STOP)]


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("something_new", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("refusal", FinishReason.CONTENT_FILTER),
    ],
)
async def test_why_an_answer_ended_is_told(stop_reason: str, reason: FinishReason) -> None:
    async with talking([text("So.", stop_reason=stop_reason)]) as (_, model):
        assert (await answer(model))[-1] == Finish(reason)


@pytest.mark.parametrize(
    ("stop_reason", "said"), [("pause_turn", "paused its answer"), ("tool_use", "announced a call but made none")]
)
async def test_ends_that_cannot_be_are_told(stop_reason: str, said: str) -> None:
    raised = await failure([text("So.", stop_reason=stop_reason)])
    assert raised.reason is ModelErrorReason.MODEL_ANSWER_BROKEN
    assert said in raised.message


async def test_closing_the_answer_closes_the_response_at_once() -> None:
    turn = message(*start(), *text_block(0, "a"), Wait(asyncio.Event()))
    async with talking([turn]) as (endpoint, model):
        async with aclosing(model.stream(QUESTION)) as events:
            await anext(events)
        async with asyncio.timeout(5):
            await endpoint.requests[0].abandoned.wait()


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "code_", "reason", "said"),
    [
        (
            error(401, "authentication_error", f"invalid x-api-key {KEY}"),
            "server_error",
            "CREDENTIALS_REFUSED",
            "api_key",
        ),
        (error(403, "permission_error", "Not yours."), "server_error", "CREDENTIALS_REFUSED", "(403)"),
        (error(404, "not_found_error", "model: claude-x"), "server_error", "UNKNOWN", "model: claude-x"),
        (error(429, "rate_limit_error", "Slow down."), "rate_limit_exceeded", "RATE_LIMITED", "Slow down"),
        (error(400, "invalid_request_error", "top_p is bad"), "invalid_prompt", "REQUEST_REFUSED", "top_p is bad"),
        (error(413, "request_too_large", "Too big."), "invalid_prompt", "REQUEST_REFUSED", "Too big"),
        (error(500, "api_error", f"Internal {KEY}."), "server_error", "FAILED", "Internal ***"),
        (error(529, "overloaded_error", "Overloaded"), "server_error", "FAILED", "failed (529): Overloaded"),
        (Turn(status=502, body="<html>Bad gateway</html>"), "server_error", "FAILED", "failed (502). Try again"),
        (Turn(body="<html>Hello</html>"), "server_error", "ANSWER_BROKEN", "text/html"),
        (message(*start(), Cut()), "server_error", "ANSWER_BROKEN", "closed the connection"),
        (message(*start(), Cut(reset=False)), "server_error", "ANSWER_BROKEN", "closed the connection"),
        (message(*start(), *text_block(0, "So")), "server_error", "ANSWER_BROKEN", "ended its answer in the middle"),
        (message(*start(), Wait(asyncio.Event())), "server_error", "TIMEOUT", "sent nothing for 0.5 seconds"),
        (message(Raw(b"event: message_start\ndata: {no\n\n")), "server_error", "ANSWER_BROKEN", "not JSON"),
        (message(Raw(b"event: message_start\ndata: 1\n\n")), "server_error", "ANSWER_BROKEN", "not an object"),
        (message(event("content_block_delta", index=0)), "server_error", "ANSWER_BROKEN", "without its delta"),
        (
            message(*start(), error_event("overloaded_error", "Busy")),
            "server_error",
            "FAILED",
            "middle of its answer: Busy",
        ),
        (message(*start(), error_event("rate_limit_error", "Slow")), "rate_limit_exceeded", "RATE_LIMITED", "Slow"),
    ],
    ids=lambda value: "",
)
async def test_faults_are_told_with_what_to_do(turn: Turn, code_: str, reason: str, said: str) -> None:
    raised = await failure([turn], stall_seconds=0.5)
    assert (raised.code.value, raised.reason.value) == (code_, f"MODEL_{reason}"), raised.message
    assert said in raised.message


@pytest.mark.parametrize(
    "said", ["prompt is too long: 210000 tokens > 200000 maximum", "input length and `max_tokens` exceed context limit"]
)
async def test_prompt_that_is_too_long_is_told_as_such(said: str) -> None:
    raised = await failure([error(400, "invalid_request_error", said)])
    assert raised.context_length_exceeded
    assert raised.code is RunErrorCode.INVALID_PROMPT


async def test_endpoint_that_is_down_is_told_with_its_setting() -> None:
    async with talking([], max_retries=0) as (endpoint, model):
        await endpoint.__aexit__(None, None, None)
        with pytest.raises(ModelError, match="the connection was refused") as raised:
            await answer(model)
        await endpoint.__aenter__()
    assert "base_url of the endpoint 'claude' (models.endpoints)" in raised.value.message


@pytest.mark.parametrize(
    "fault",
    [
        error(529, "overloaded_error", "Overloaded"),
        error(429, "rate_limit_error", "Slow down.", {"retry-after": "0"}),
        message(*start(), error_event("overloaded_error", "Overloaded")),
        message(*start(), *thinking_block(0, "Hm."), Cut()),
    ],
    ids=["529", "429", "event", "cut while thinking"],
)
async def test_fault_before_the_answer_is_seen_is_tried_again(fault: Turn) -> None:
    async with talking([fault, text("ok")]) as (endpoint, model):
        assert TextDelta("ok") in await answer(model)
    assert len(endpoint.requests) == 2


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_a_conversation_is_told_as_the_api_wants_it() -> None:
    calls = (
        PromptToolCall("call_1", "code_interpreter", '{"code": "1"}'),
        PromptToolCall("call_2", "lookup", "{broken"),
    )
    body = await asked(
        ModelRequest(
            "claude-x",
            (
                SystemMessage("Be brief."),
                AssistantMessage("I said something earlier."),
                UserMessage((TextPart("One"),)),
                UserMessage((TextPart(" \n"), TextPart("Two"))),
                AssistantMessage("I look. \n", calls),
                ToolMessage("call_1", "1", (ImageBytes(b"png", "image/png"),)),
                ToolMessage("call_2", ""),
            ),
        )
    )
    assert body["system"] == "Be brief."
    source = {"type": "base64", "media_type": "image/png", "data": "cG5n"}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "(Earlier messages are left out.)"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I said something earlier."}]},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "call_1", "name": "code_interpreter", "input": {"code": "1"}},
                {"type": "tool_use", "id": "call_2", "name": "lookup", "input": {"invalid_arguments": "{broken"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "1"}, {"type": "image", "source": source}],
                },
                {"type": "tool_result", "tool_use_id": "call_2"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ((), ["user"]),
        ((UserMessage((TextPart(" "),)),), ["user"]),
        ((HELLO, AssistantMessage("Hi.")), ["user", "assistant", "user"]),
        ((HELLO, AssistantMessage(""), HELLO), ["user"]),
        ((AssistantMessage(None), AssistantMessage("Hi."), HELLO), ["user", "assistant", "user"]),
    ],
)
async def test_users_and_assistants_take_turns_and_a_user_is_first_and_last(messages: Any, roles: list[str]) -> None:
    told = (await asked(ModelRequest("claude-x", messages)))["messages"]
    assert [message["role"] for message in told] == roles
    assert all(block.get("text", "x").strip() for message in told for block in message["content"])


async def test_images_are_told_by_content_and_by_address() -> None:
    images = UserMessage((ImageBytes(b"jpg", "image/jpeg", "low"), ImageUrl("https://example.org/a.png", "high")))
    (message,) = (await asked(ModelRequest("claude-x", (images,))))["messages"]
    assert [block["source"] for block in message["content"]] == [
        {"type": "base64", "media_type": "image/jpeg", "data": "anBn"},
        {"type": "url", "url": "https://example.org/a.png"},
    ]
    (message,) = (await asked(ModelRequest("claude-x", (images,)), vision=False))["messages"]
    assert {block["type"] for block in message["content"]} == {"text"}


async def test_tools_are_told_with_their_schemas() -> None:
    plain, strict = FunctionTool("now"), replace(LOOKUP, strict=True)
    tools = (await asked(replace(QUESTION, tools=(CODE, plain, strict))))["tools"]
    assert tools[0]["name"] == "code_interpreter"
    assert tools[0]["eager_input_streaming"] is True
    assert tools[0]["input_schema"]["required"] == ["code"]
    assert tools[1] == {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    assert tools[2]["strict"] is True
    assert tools[2]["input_schema"]["properties"] == {"word": {"type": "string"}}


@pytest.mark.parametrize(
    ("choice", "parallel", "told"),
    [
        (ToolChoice(), True, None),
        (ToolChoice(), False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice(ToolChoiceMode.NONE), False, {"type": "none"}),
        (ToolChoice(ToolChoiceMode.REQUIRED), True, {"type": "any"}),
        (ToolChoice(ToolChoiceMode.REQUIRED), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice(ToolChoiceMode.CODE_INTERPRETER), True, {"type": "tool", "name": "code_interpreter"}),
        (ToolChoice(ToolChoiceMode.FUNCTION, "lookup"), True, {"type": "tool", "name": "lookup"}),
    ],
)
async def test_choice_of_tools_is_told(choice: ToolChoice, parallel: bool, told: dict[str, object] | None) -> None:
    request = replace(QUESTION, tools=(CODE, LOOKUP), tool_choice=choice, parallel_tool_calls=parallel)
    assert (await asked(request)).get("tool_choice") == told


async def test_limits_and_sampling_are_told() -> None:
    body = await asked(replace(QUESTION, max_completion_tokens=300, temperature=0.5, top_p=0.9))
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (300, 0.5, 0.9)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 1.5}, "takes temperatures from 0 to 1, not 1.5"),
        ({"reasoning_effort": "extreme"}, "has no reasoning_effort 'extreme'. Use one of 'none', 'minimal', 'low'"),
        ({"tools": (FunctionTool("f", None, "{nonsense"),)}, "JSON is expected as the parameters of the function 'f'"),
    ],
)
async def test_what_the_api_cannot_do_is_refused_before_it_is_asked(fields: dict[str, Any], said: str) -> None:
    async with talking([text("ok")]) as (endpoint, model):
        with pytest.raises(ModelError) as raised:
            await answer(model, replace(QUESTION, **fields))
    assert said in raised.value.message
    assert raised.value.code is RunErrorCode.INVALID_PROMPT
    assert not endpoint.requests


# --- thinking ---------------------------------------------------------------------------------------------------------

NO_ADAPTIVE = error(400, "invalid_request_error", "adaptive thinking is not supported on this model")
NO_THINKING = error(400, "invalid_request_error", '"thinking" is not supported for this model')
IN_LOOP = (AssistantMessage(tool_calls=(PromptToolCall("call_1", "lookup", "{}"),)), ToolMessage("call_1", "A bird."))


async def thinking_told(script: list[Turn], *requests: ModelRequest) -> list[tuple[object, object]]:
    async with talking(script) as (endpoint, model):
        for request in requests:
            await answer(model, request)
    return [(request.body.get("thinking"), request.body.get("output_config")) for request in endpoint.requests]


async def test_effort_is_told_to_models_that_take_one() -> None:
    told = await thinking_told(
        [text("ok")] * 3, *(replace(QUESTION, reasoning_effort=e) for e in ("minimal", "max", ""))
    )
    assert told == [({"type": "adaptive"}, {"effort": "low"}), ({"type": "adaptive"}, {"effort": "max"}), (None, None)]


async def test_models_that_take_a_budget_get_one_outside_of_loops() -> None:
    request = replace(QUESTION, reasoning_effort="high")
    script = [NO_ADAPTIVE, *[text("ok")] * 4]
    small, in_loop = replace(request, max_completion_tokens=2_000), replace(request, messages=(HELLO, *IN_LOOP))
    told = await thinking_told(script, request, replace(request, max_completion_tokens=4_000), small, in_loop)
    assert told[1:] == [
        ({"type": "enabled", "budget_tokens": 8_192}, None),
        ({"type": "enabled", "budget_tokens": 2_000}, None),
        (None, None),
        (None, None),
    ]


async def test_models_that_cannot_think_are_not_asked_to() -> None:
    request = replace(QUESTION, reasoning_effort="low")
    told = await thinking_told([NO_ADAPTIVE, NO_THINKING, text("ok"), text("ok")], request, request)
    assert told[2:] == [(None, None), (None, None)]


async def test_models_that_cannot_but_think_think_little_when_they_are_not_to() -> None:
    request = replace(QUESTION, reasoning_effort="none")
    refusal = error(400, "invalid_request_error", '"thinking.type.disabled" is not supported for this model.')
    told = await thinking_told([refusal, text("ok")], request)
    assert told == [({"type": "disabled"}, None), ({"type": "adaptive"}, {"effort": "low"})]


async def test_forced_call_is_made_without_thinking() -> None:
    forced = replace(QUESTION, tools=(CODE,), tool_choice=ToolChoice(ToolChoiceMode.REQUIRED), reasoning_effort="high")
    assert await thinking_told([code("1")], forced) == [(None, {"effort": "high"})]


# --- what models do not take ------------------------------------------------------------------------------------------


async def bodies(script: list[Turn], request: ModelRequest, times: int = 1) -> list[dict[str, Any]]:
    async with talking(script) as (endpoint, model):
        for _ in range(times):
            await answer(model, request)
    return [request.body for request in endpoint.requests]


async def test_models_that_cannot_be_forced_are_asked() -> None:
    refusal = error(400, "invalid_request_error", "tool_choice: 'any' is not supported for this model")
    forced = replace(QUESTION, tools=(CODE,), tool_choice=ToolChoice(ToolChoiceMode.REQUIRED))
    first, second, third = await bodies([refusal, code("1"), code("1")], forced, 2)
    assert first["tool_choice"] == {"type": "any"}
    assert "tool_choice" not in second
    assert third == second


async def test_gateways_that_do_not_stream_arguments_are_not_asked_to() -> None:
    refusal = error(400, "invalid_request_error", "tools.0.eager_input_streaming: Extra inputs are not permitted")
    _, second = await bodies([refusal, code("1")], replace(QUESTION, tools=(CODE,)))
    assert "eager_input_streaming" not in second["tools"][0]


async def test_models_with_a_lower_limit_get_it() -> None:
    said = "max_tokens: 16384 > 8192, which is the maximum allowed number of output tokens for claude-x"
    _, second, third = await bodies([error(400, "invalid_request_error", said), text("ok"), text("ok")], QUESTION, 2)
    assert second["max_tokens"] == third["max_tokens"] == 8_192


SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": false}'
AS_SCHEMA = replace(QUESTION, response_format=ResponseFormat(ResponseFormatType.JSON_SCHEMA, "n", None, SCHEMA))


async def test_schema_of_the_answer_is_told() -> None:
    body = await asked(replace(AS_SCHEMA, reasoning_effort="low"))
    assert body["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": json.loads(SCHEMA)},
    }
    assert "system" not in body


async def test_models_without_schemas_are_told_in_words() -> None:
    refusal = error(400, "invalid_request_error", "output_config.format: structured outputs are not supported")
    _, second = await bodies([refusal, text('{"n": 1}')], AS_SCHEMA)
    assert "output_config" not in second
    assert SCHEMA in second["system"]


async def test_schema_that_is_wrong_is_the_clients_to_correct() -> None:
    said = "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
    raised = await failure([error(400, "invalid_request_error", said)], AS_SCHEMA)
    assert said in raised.message


async def test_object_without_a_schema_is_asked_for_in_words() -> None:
    body = await asked(replace(QUESTION, response_format=ResponseFormat(ResponseFormatType.JSON_OBJECT)))
    assert "one JSON object" in body["system"]


async def test_environment_of_the_server_gives_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-somebody-else")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "of-somebody-else")
    async with talking([text("ok")], key=None) as (endpoint, model):
        await answer(model)
    assert "of-somebody-else" not in str(endpoint.requests[0].headers)
