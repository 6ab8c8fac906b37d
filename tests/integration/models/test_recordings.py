"""The ways in which OpenAI-compatible endpoints differ, replayed over real HTTP; see recordings/README.md."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from afarensis_server.domain.runs import Usage
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.openai import OpenAIModel
from afarensis_server.runs.models.protocol import (
    Finish,
    ModelError,
    ModelErrorReason,
    ModelEvent,
    ModelRequest,
    ModelUsage,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TextPart,
    ToolCallDelta,
    UserMessage,
)
from tests.support.scripted_model import Raw, ScriptedModel, Turn

RECORDINGS = Path(__file__).parent / "recordings"
QUESTION = ModelRequest("m", (UserMessage((TextPart("Hello"),)),))

#: What an answer was: its text, its reasoning, the arguments of its calls (all of `lookup`), how it ended, its usage.
Said = tuple[str, str, list[str], str, Usage | None]

AUK, EMU = '{"word":"auk"}', '{"word":"emu"}'


def text(words: str, usage: Usage | None = None, *, thought: str = "", finish: str = "stop") -> Said:
    return words, thought, [], finish, usage


def calls(*arguments: str, usage: Usage | None = None, words: str = "") -> Said:
    return words, "", list(arguments), "tool_calls", usage


EXPECTED: dict[str, Said] = {
    "openai-text": text("Hello", Usage(12, 5, 8, 3)),
    "openai-parallel-calls": calls(AUK, EMU, usage=Usage(50, 20)),
    "openai-refusal": text("I can't help."),
    "azure-content-filter-first": text("Hello", Usage(9, 1)),
    "azure-content-filtered": text("Well", finish="content_filter"),
    "vllm-usage-in-every-chunk": text("Hi!", Usage(20, 3)),
    "vllm-reasoning": text("\n\n4", Usage(20, 8), thought="Two and two."),
    "vllm-named-call-without-id": calls('{"word": "auk"}'),
    "ollama-call-whole": calls(AUK),
    "ollama-calls-all-index-0": calls(AUK, EMU, usage=Usage(30, 9)),
    "ollama-arguments-as-object": calls('{"word": "auk"}'),
    "ollama-think-block": text("4 it is <think>.", thought="\nTwo and two.\n"),
    "ollama-reasoning-field": text("4", thought="Hm."),
    "llamacpp-text": text("Hi", Usage(5, 1)),
    "llamacpp-call": calls(AUK),
    "litellm-index-behind-text": calls(AUK, EMU, usage=Usage(40, 12), words="I look."),
    "mistral-call-and-usage-in-last-chunk": calls('{"word": "auk"}', '{"word": "emu"}', usage=Usage(94, 31)),
    "mistral-content-in-parts": text("4", Usage(10, 4), thought="Hm."),
    "mistral-too-long": text("It", Usage(10, 4), finish="length"),
    "groq-usage-of-its-own": text("Hi", Usage(11, 2)),
    "groq-reasoning": text("4", thought="Hm"),
    "gemini-whole-answer-in-one-chunk": text("Hello there", Usage(4, 2)),
    "gemini-call-without-index-and-id": calls(AUK, EMU, usage=Usage(40, 0)),
    "deepseek-reasoning": text("4", Usage(14, 9, 8, 7), thought="Two and two."),
    "xai-reasoning-beside-completion": text("4", Usage(10, 32, 0, 30), thought="Hm."),
    "openrouter-keepalives": text("Hi", Usage(7, 1)),
    "crlf": text("Hi"),
    "no-space-behind-data": text("Hi"),
    "role-only-then-nothing": text("", Usage(7, 0)),
    "no-finish-reason": text("Hello"),
    "no-done": text("Hi"),
    "empty-deltas": text("Hi"),
    "empty-deltas-then-call": calls(AUK, words="\n"),
    "id-repeated-in-every-piece": calls(AUK),
    "id-empty-in-later-pieces": calls(AUK),
    "id-missing": calls(AUK),
    "name-in-every-piece": calls(AUK),
    "calls-out-of-order": calls(AUK, EMU),
    "name-behind-a-later-call": calls(AUK, EMU),
    "calls-interleaved": calls(AUK, EMU),
    "legacy-function-call": calls(AUK),
    "message-instead-of-delta": text("Hello", Usage(3, 1)),
    "finish-stop-with-calls": calls(AUK),
    "finish-reason-of-its-own": text("Hi"),
    "usage-of-zeros": text("Hi"),
}

BROKEN: dict[str, tuple[ModelErrorReason, str]] = {
    "error-before-anything": (ModelErrorReason.MODEL_FAILED, "The server is overloaded. Try again later."),
    "error-behind-words": (ModelErrorReason.MODEL_FAILED, "out of memory. Try again later."),
}


class Replayed(ScriptedModel):
    """The endpoint that a recording is from. Its end is in the recording, if it has one."""

    end = b""


def pieces(name: str, size: int) -> Iterator[Raw]:
    data = (RECORDINGS / f"{name}.sse").read_bytes()
    if name == "crlf":
        data = data.replace(b"\n", b"\r\n")
    for begin in range(0, len(data), size):
        yield Raw(data[begin : begin + size])


@asynccontextmanager
async def replaying(name: str, size: int) -> AsyncIterator[OpenAIModel]:
    turn = Turn(tuple(pieces(name, size)), finish=None, usage=None)
    async with Replayed([turn]) as endpoint, OpenAIModel(EndpointSettings(endpoint.base_url)) as model:
        yield model


async def answer(model: OpenAIModel) -> list[ModelEvent]:
    async with aclosing(model.stream(QUESTION)) as events:
        return [event async for event in events]


def said(events: list[ModelEvent]) -> Said:
    words = "".join(event.text for event in events if isinstance(event, TextDelta | RefusalDelta))
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    made: list[str] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            if event.index == len(made):
                # The first piece of a call names it; no piece comes before it, none names it again.
                assert event.id
                assert event.name == "lookup"
                made.append("")
            else:
                assert (event.id, event.name) == (None, None)
            made[event.index] += event.arguments_json
    usages = [event.usage for event in events if isinstance(event, ModelUsage)]
    assert len(usages) <= 1
    finish = events[-1]
    assert isinstance(finish, Finish)
    return words, thought, made, finish.reason.value, usages[0] if usages else None


@pytest.mark.parametrize("size", [1 << 20, 7], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", EXPECTED)
async def test_answer_is_understood(name: str, size: int) -> None:
    async with replaying(name, size) as model:
        assert said(await answer(model)) == EXPECTED[name]


@pytest.mark.parametrize("name", BROKEN)
async def test_answer_that_breaks_is_told(name: str) -> None:
    reason, words = BROKEN[name]
    async with replaying(name, 1 << 20) as model:
        with pytest.raises(ModelError) as raised:
            await answer(model)
    assert raised.value.reason is reason
    assert words in raised.value.message


async def test_think_block_is_text_where_the_endpoint_is_said_to_have_none() -> None:
    turn = Turn(tuple(pieces("ollama-think-block", 1 << 20)), finish=None, usage=None)
    async with (
        Replayed([turn]) as endpoint,
        OpenAIModel(EndpointSettings(endpoint.base_url, think_tags=False)) as model,
    ):
        assert said(await answer(model))[0].startswith("<think>\nTwo and two.\n</think>")


def test_every_recording_is_replayed() -> None:
    assert {path.stem for path in RECORDINGS.glob("*.sse")} == EXPECTED.keys() | BROKEN.keys()
