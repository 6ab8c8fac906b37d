"""How tokens are estimated where nobody counted them."""

from hypothesis import given
from hypothesis import strategies as st

from afarensis_server.domain.runs import Usage
from afarensis_server.domain.tools import CodeInterpreterTool, FunctionTool
from afarensis_server.runs.models.protocol import (
    AssistantMessage,
    Finish,
    FinishReason,
    ImageBytes,
    ImageUrl,
    ModelRequest,
    PromptToolCall,
    ReasoningDelta,
    SystemMessage,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from afarensis_server.runs.models.usage import ESTIMATOR, UsageEstimator, estimate_prompt, estimate_text
from tests.support.calls import count_calls


def test_four_characters_are_a_token_and_a_part_of_one_counts() -> None:
    assert [estimate_text("x" * length) for length in (0, 1, 4, 5, 400)] == [0, 1, 1, 2, 100]
    assert estimate_text("é" * 8) == 2


def test_chinese_japanese_and_korean_characters_are_a_token_each() -> None:
    assert estimate_text("企鹅的体重") == 5
    assert estimate_text("ペンギン") == 4
    assert estimate_text("펭귄") == 2
    assert estimate_text("Adelie 企鹅: 3700 g") == 2 + 4


@given(st.lists(st.text()))
def test_pieces_count_like_their_whole(pieces: list[str]) -> None:
    estimator = UsageEstimator(ModelRequest("m", ()))
    for piece in pieces:
        estimator.note(TextDelta(piece))
    assert estimator.completion_tokens == estimate_text("".join(pieces))


def test_everything_in_a_prompt_counts() -> None:
    call = PromptToolCall("call_1", "lookup", '{"word": "penguin"}')
    plain = estimate_prompt([UserMessage((TextPart("x" * 40),))])
    assert plain == 10 + 4
    assert estimate_prompt([SystemMessage("x" * 40)]) == plain
    assert estimate_prompt([ToolMessage("call_1", "x" * 40)]) == plain
    assert estimate_prompt([AssistantMessage("x" * 40, (call,))]) > plain + estimate_text(call.arguments_json)
    function = FunctionTool("lookup", "Looks a word up.", '{"type": "object"}')
    assert estimate_prompt([], [function]) > estimate_text("Looks a word up.")
    assert estimate_prompt([], [CodeInterpreterTool()]) > 150


def test_images_count_by_their_detail_wherever_they_are() -> None:
    low, high = ImageUrl("https://example.org/a.png", "low"), ImageUrl("https://example.org/a.png", "high")
    assert estimate_prompt([UserMessage((low,))]) == 4 + 85
    assert estimate_prompt([UserMessage((high,))]) == 4 + 1_000
    assert estimate_prompt([ToolMessage("call_1", "", (ImageBytes(b"", "image/png"),))]) == 4 + 1_000


def test_usage_can_be_read_at_any_time_and_names_its_estimator() -> None:
    request = ModelRequest("m", (UserMessage((TextPart("x" * 40),)),))
    estimator = UsageEstimator(request)
    assert estimator.usage == Usage(14, 0, estimator=ESTIMATOR)
    estimator.note(ReasoningDelta("x" * 8))
    estimator.note(ToolCallDelta(0, "call_1", "code", "{}  "))
    estimator.note(Finish(FinishReason.TOOL_CALLS))
    assert estimator.usage == Usage(14, 4, reasoning_tokens=2, estimator=ESTIMATOR)


def test_sum_is_estimated_when_a_part_of_it_is() -> None:
    counted = Usage(3, 4, cached_prompt_tokens=1, reasoning_tokens=2)
    assert counted + counted == Usage(6, 8, 2, 4)
    assert counted + Usage(1, 1, estimator=ESTIMATOR) == Usage(4, 5, 1, 2, ESTIMATOR)
    assert (Usage(1, 1, estimator=ESTIMATOR) + counted).estimator == ESTIMATOR


def test_the_longest_instructions_are_estimated_by_runs_and_not_by_characters() -> None:
    assert count_calls(estimate_text, "Ein Pinguin, 企鹅. " * 16_000) < 50_000
