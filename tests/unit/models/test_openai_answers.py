"""Answers as endpoints really send them."""

import pytest

from afarensis_server.domain.runs import Usage
from afarensis_server.runs.models.answers import BrokenAnswer
from afarensis_server.runs.models.openai_answers import Answer
from afarensis_server.runs.models.protocol import (
    Finish,
    FinishReason,
    ModelEvent,
    ModelUsage,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)

Json = dict[str, object]


def chunk(delta: Json | None = None, finish: str | None = None) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def piece(index: int | None = None, id_: str | None = None, name: str | None = None, arguments: object = None) -> Json:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    given: Json = {"index": index, "id": id_, "function": function}
    return chunk({"tool_calls": [{key: value for key, value in given.items() if value is not None}]})


def read(*chunks: object) -> list[ModelEvent]:
    answer = Answer()
    events = [event for each in chunks for event in answer.read(each)]
    return [*events, *answer.end()]


def calls(*chunks: object) -> list[tuple[str, str]]:
    """Name and arguments of each call that these chunks make."""
    found: dict[int, tuple[str, str]] = {}
    for event in read(*chunks):
        if isinstance(event, ToolCallDelta):
            if event.index not in found:
                assert event.index == len(found)
                assert event.id
                assert event.name
                found[event.index] = (event.name, "")
            else:
                assert event.name is None
            name, arguments = found[event.index]
            found[event.index] = (name, arguments + event.arguments_json)
    return list(found.values())


END = chunk({}, "tool_calls")


def test_usage_is_told_right_before_the_finish() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert read(chunk({"content": "a"}), chunk({}, "stop"), usage) == [
        TextDelta("a"),
        ModelUsage(Usage(3, 2)),
        Finish(FinishReason.STOP),
    ]


def test_chunks_without_choices_or_delta_are_skipped() -> None:
    filter_result: Json = {"choices": [], "prompt_filter_results": []}
    assert read(filter_result, {}, chunk(None), chunk({"role": "assistant", "content": ""}), chunk(None, "stop")) == [
        Finish(FinishReason.STOP)
    ]


def test_refusals_and_lists_of_parts_are_read() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}]
    assert read(chunk({"content": parts}), chunk({"refusal": "No."}, "stop"))[:2] == [
        TextDelta("a"),
        RefusalDelta("No."),
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(
            [
                piece(0, "a", "f", ""),
                piece(0, None, None, '{"x"'),
                piece(0, None, None, ":1}"),
                piece(1, "b", "g", "{}"),
            ],
            id="OpenAI",
        ),
        pytest.param([piece(None, "a", "f", '{"x":1}'), piece(None, "b", "g", "{}")], id="whole, without index"),
        pytest.param([piece(None, None, "f", '{"x":1}'), piece(None, None, "g", "{}")], id="without index and id"),
        pytest.param([piece(0, "a", "f", '{"x":1}'), piece(0, "b", "g", "{}")], id="all with index 0"),
        pytest.param(
            [piece(0, "a", "f", '{"x"'), piece(0, "a", "f", ":1}"), piece(1, "b", "g", "{}")], id="id repeated"
        ),
        pytest.param(
            [piece(0, "a", "f", '{"x"'), piece(0, "", "", ":1}"), piece(1, "b", "g", "{}")], id="empty later on"
        ),
        pytest.param([piece(0, "a"), piece(0, None, "f", '{"x":1}'), piece(1, "b", "g", "{}")], id="name after the id"),
        pytest.param([piece(1, "a", "f", '{"x":1}'), piece(2, "b", "g", "{}")], id="counted from 1"),
    ],
)
def test_calls_are_told_apart_however_they_are_numbered(chunks: list[Json]) -> None:
    assert calls(*chunks, END) == [("f", '{"x":1}'), ("g", "{}")]


def test_arguments_as_an_object_are_written_out() -> None:
    assert calls(piece(None, None, "f", {"x": 1}), END) == [("f", '{"x": 1}')]


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", "end_turn", "eos"])
def test_an_answer_with_calls_finishes_with_tool_calls(finish: str) -> None:
    assert read(piece(0, "a", "f", "{}"), chunk({}, finish))[-1] == Finish(FinishReason.TOOL_CALLS)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", FinishReason.LENGTH), ("content_filter", FinishReason.CONTENT_FILTER), ("eos", FinishReason.STOP)],
)
def test_finish_reasons_are_translated(finish: str, reason: FinishReason) -> None:
    assert read(chunk({"content": "a"}, finish))[-1] == Finish(reason)


def test_calls_cut_by_the_token_limit_finish_with_length() -> None:
    assert read(piece(0, "a", "f", '{"x'), chunk({}, "length"))[-1] == Finish(FinishReason.LENGTH)


def test_usage_alone_at_the_end_says_that_the_answer_is_whole() -> None:
    assert read(chunk({"content": "a"}), {"choices": [], "usage": {}})[-1] == Finish(FinishReason.STOP)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk({"content": "a"})],
        [{"choices": [], "usage": {}}, chunk({"content": "a"})],
        [chunk({"content": "a"}, "error")],
        [chunk({}, "tool_calls")],
        [piece(0, "a"), END],
        ["text"],
        [{"choices": {}}, {"choices": {"0": 1}}],
        [{"choices": [{"delta": "text"}]}],
    ],
)
def test_broken_answers_are_not_taken_for_whole_ones(chunks: list[object]) -> None:
    with pytest.raises(BrokenAnswer):
        read(*chunks)


def test_surrogate_pair_split_over_chunks_is_joined_and_half_of_one_replaced() -> None:
    answer = Answer()
    pieces = ["a\ud83d", "\ude00b", "\ud83d", "c"]
    events = [event for piece in pieces for event in answer.read({"choices": [{"delta": {"content": piece}}]})]
    assert events == [TextDelta("a"), TextDelta("😀b"), TextDelta("\ufffdc")]


def thought_and_said(*pieces: str, think_tags: bool = True) -> tuple[str, str]:
    answer = Answer(think_tags=think_tags)
    events = [event for text in pieces for event in answer.read(chunk({"content": text}))]
    events += [*answer.read(chunk({}, "length")), *answer.end()]
    thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    return thought, "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>Hm.</think>Yes.", "Hm.", "Yes."),
        (" \n<think>\nHm.\n</think>\n\nYes.\n", "\nHm.\n", "Yes.\n"),
        ("<think></think>Yes.", "", "Yes."),
        ("<think>Hm. < / think> </thin", "Hm. < / think> </thin", ""),
        ("Yes. <think>Hm.</think>", "", "Yes. <think>Hm.</think>"),
        ("<think>a</think><think>b</think>", "a", "<think>b</think>"),
        ("<thinking>Hm.</thinking>", "", "<thinking>Hm.</thinking>"),
        ("  <thi", "", "  <thi"),
        ("\n\nYes.", "", "\n\nYes."),
        ("", "", ""),
    ],
)
def test_think_block_at_the_beginning_is_reasoning_however_it_comes(text: str, thought: str, said: str) -> None:
    for size in (1, 2, 3, 5, 1_000):
        pieces = [text[begin : begin + size] for begin in range(0, len(text), size)]
        assert thought_and_said(*pieces) == (thought, said), size
    assert thought_and_said(text, think_tags=False) == ("", text)


def test_words_come_at_once_where_no_think_block_begins() -> None:
    answer = Answer()
    assert list(answer.read(chunk({"content": "Yes"}))) == [TextDelta("Yes")]
    assert list(answer.read(chunk({"content": "<"}))) == [TextDelta("<")]


def test_reasoning_comes_at_once() -> None:
    answer = Answer()
    assert list(answer.read(chunk({"content": "<think>Hm"}))) == [ReasoningDelta("Hm")]
    assert list(answer.read(chunk({"content": ", so"}))) == [ReasoningDelta(", so")]


def test_reasoning_alone_is_no_answer_unless_the_limit_was_reached() -> None:
    with pytest.raises(BrokenAnswer, match="sent its reasoning and no answer") as raised:
        read(chunk({"reasoning_content": "Hm."}), chunk({}, "stop"))
    assert raised.value.transient
    assert read(chunk({"reasoning_content": "Hm."}), chunk({}, "length"))[-1] == Finish(FinishReason.LENGTH)


def test_call_that_was_cut_before_its_name_is_left_out_when_the_limit_was_reached() -> None:
    assert read(piece(0, "call_a"), chunk({}, "length")) == [Finish(FinishReason.LENGTH)]
    with pytest.raises(BrokenAnswer, match="without saying of which function"):
        read(piece(0, "call_a"), END)


def test_call_whose_turn_it_is_streams_while_a_later_one_waits() -> None:
    answer = Answer()
    assert list(answer.read(piece(1, "call_b", "g", "{}"))) == []
    assert list(answer.read(piece(0, "call_a", "f"))) == [
        ToolCallDelta(0, "call_a", "f"),
        ToolCallDelta(1, "call_b", "g", "{}"),
    ]
    assert list(answer.read(piece(0, arguments="{}"))) == [ToolCallDelta(0, arguments_json="{}")]


def test_done_ends_an_answer_but_not_an_empty_one() -> None:
    answer = Answer()
    assert list(answer.read(chunk({"content": "Yes"}))) == [TextDelta("Yes")]
    answer.done()
    assert list(answer.end()) == [Finish(FinishReason.STOP)]
    empty = Answer()
    empty.done()
    with pytest.raises(BrokenAnswer, match="ended its answer in the middle"):
        list(empty.end())
