"""Which endpoint serves a model's name, and what is said when none does, or when two would."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from afarensis_server.domain.runs import Usage
from afarensis_server.errors import ModelUnknown
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.protocol import (
    Finish,
    FinishReason,
    ModelError,
    ModelErrorReason,
    ModelEvent,
    ModelRequest,
    ModelUsage,
    ReasoningDelta,
    TextDelta,
    TextPart,
    UserMessage,
)
from afarensis_server.runs.models.registry import Models, ModelTraits, check
from afarensis_server.runs.models.retry import RetrySettings
from afarensis_server.runs.models.served import ServedEndpoint
from afarensis_server.runs.models.usage import ESTIMATOR


class Says:
    """A model that answers with these events."""

    def __init__(self, *events: ModelEvent) -> None:
        self._events = events

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        for event in self._events:
            yield event


def settings(name: str, *models: str, **more: object) -> EndpointSettings:
    fields: dict[str, object] = {"base_url": "http://host/v1", "name": name, "models": models or ("*",), **more}
    return EndpointSettings(**fields)  # type: ignore[arg-type]


def endpoint(name: str, *models: str, **more: object) -> ServedEndpoint:
    """An endpoint whose answers are its name."""
    model = Says(TextDelta(name), Finish(FinishReason.STOP))
    return ServedEndpoint(settings(name, *models, **more), model, RetrySettings())


async def answer(models: Models, model: str) -> list[ModelEvent]:
    question = UserMessage((TextPart("x" * 40),))
    async with aclosing(models.stream(ModelRequest(model, (question,)))) as events:
        return [event async for event in events]


async def test_direct_answers_without_any_configuration() -> None:
    assert (await answer(Models(), "direct"))[-2:] == [ModelUsage(Usage()), Finish(FinishReason.STOP)]


async def test_other_names_need_an_endpoint_and_the_error_names_the_settings() -> None:
    with pytest.raises(ModelUnknown, match="AFARENSIS_OPENAI_BASE_URL") as raised:
        Models().check("gpt-4.1")
    assert "'gpt-4.1'" in str(raised.value)
    with pytest.raises(ModelError, match="AFARENSIS_OPENAI_API_KEY") as failed:
        await answer(Models(), "gpt-4.1")
    assert failed.value.reason is ModelErrorReason.MODEL_UNKNOWN


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("qwen3:8b", "ollama"),
        ("gpt-4.1", "openai"),
        ("gpt-4.1-mini", "mini"),
        ("gpt-4.1-mini-2025", "openai"),
        ("gpt-oss-20b", "local"),
        ("claude-5", "rest"),
        ("*", "rest"),
        ("gpt-*", "openai"),
    ],
)
async def test_the_longest_pattern_that_fits_a_name_wins(model: str, served: str) -> None:
    models = Models(
        [
            endpoint("rest", "*"),
            endpoint("openai", "gpt-*"),
            endpoint("mini", "gpt-4.1-mini"),
            endpoint("local", "gpt-oss-*"),
            endpoint("ollama", "qwen3:*", "llama*"),
        ]
    )
    assert (await answer(models, model))[0] == TextDelta(served)


def test_name_that_no_pattern_fits_is_refused_with_those_there_are() -> None:
    models = Models([endpoint("a", "gpt-4.1*", "o3")])
    models.check("gpt-4.1-mini")
    for name in ("gpt-4", "o3-mini", ""):
        with pytest.raises(ModelUnknown, match=r"This server has 'direct', 'gpt-4\.1\*', 'o3'"):
            models.check(name)


def test_models_are_listed_in_the_order_of_the_configuration() -> None:
    listed = Models([endpoint("a", "gpt-*", "o3"), endpoint("b")], default="qwen3").names()
    assert [(model.id, model.provider, model.is_default) for model in listed] == [
        ("direct", "direct", False),
        ("qwen3", "openai", True),
        ("gpt-*", "openai", False),
        ("o3", "openai", False),
        ("*", "openai", False),
    ]
    listed = Models([endpoint("a", "gpt-*", "o3")], default="o3").names()
    assert [model.id for model in listed if model.is_default] == ["o3"]
    assert [model.id for model in listed] == ["direct", "gpt-*", "o3"]
    assert [(model.id, model.is_default) for model in Models().names()] == [("direct", True)]


def test_what_is_known_of_a_model_is_what_its_endpoint_says() -> None:
    models = Models([endpoint("a", "small-*", context_tokens=8_192, vision=False), endpoint("b")])
    assert models.traits("small-1") == ModelTraits(8_192, vision=False)
    assert models.traits("other") == models.traits("direct") == ModelTraits(None, vision=True)


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [
        ([settings("a", "x"), settings("a", "y")], "two endpoints are named 'a'. Rename one of them."),
        ([settings("openai", "x"), settings("openai", "y")], "The section [openai] is an endpoint of that name."),
        ([settings("a", "x*"), settings("b", "x*")], "both 'a' and 'b' serve 'x*'"),
        ([settings("a", "x", "x")], "the endpoint 'a' has the name 'x' twice in models. Remove one."),
        ([settings("a", provider="gemini")], "has the provider 'gemini', which there is not. Use 'openai'"),
        ([settings("a", "direct")], "cannot serve the name 'direct', which is the built-in model's."),
        ([settings("a", omit=frozenset({"stream"}))], "cannot omit 'stream'. What its provider can leave out is"),
        ([settings("a", base_url="http://host/v1/chat/completions")], "must end before /chat/completions"),
    ],
)
def test_endpoints_that_cannot_stand_side_by_side_are_refused(endpoints: list[EndpointSettings], said: str) -> None:
    with pytest.raises(ValueError, match=r"^models\.endpoints: ") as refused:
        check(endpoints)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "my endpoint"}, "'my endpoint' cannot be the name of an endpoint"),
        ({"models": ()}, "models of the endpoint 'a' names no model"),
        ({"models": ("gpt*4",)}, "'gpt*4' cannot be a name of models"),
        ({"models": ("",)}, "'' cannot be a name of models"),
        ({"base_url": "host:80"}, "base_url of the endpoint 'a' must be a whole URL"),
    ],
)
def test_endpoint_that_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=r"^models\.endpoints: ") as refused:
        EndpointSettings(**{"base_url": "http://host/v1", "name": "a", **fields})  # type: ignore[arg-type]
    assert said in str(refused.value)


async def told(*events: ModelEvent) -> list[ModelEvent]:
    served = ServedEndpoint(settings("a"), Says(*events), RetrySettings())
    return await answer(Models([served]), "m")


async def test_answer_whose_endpoint_counts_has_its_usage_once_before_the_finish() -> None:
    counted, final = ModelUsage(Usage(1, 2)), ModelUsage(Usage(3, 4))
    finish = Finish(FinishReason.STOP)
    assert await told(counted, TextDelta("a"), final, finish) == [TextDelta("a"), final, finish]


async def test_answer_whose_endpoint_does_not_count_is_estimated() -> None:
    events = await told(ReasoningDelta("x" * 8), TextDelta("x" * 20), Finish(FinishReason.STOP))
    assert events[-2:] == [ModelUsage(Usage(14, 7, 0, 2, ESTIMATOR)), Finish(FinishReason.STOP)]
