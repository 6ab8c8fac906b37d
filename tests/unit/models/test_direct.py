"""`direct` runs the Python blocks of a message, one call each, and reports truthfully."""

import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from afarensis_server.domain.executions import CodeError, ExecutionResult, ExecutionStatus, OutputItem, OutputStream
from afarensis_server.domain.runs import RunErrorCode, Usage
from afarensis_server.domain.tools import (
    CodeInterpreterTool,
    ResponseFormat,
    ResponseFormatType,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from afarensis_server.runs.models.direct import DirectModel, fenced_blocks
from afarensis_server.runs.models.protocol import (
    AssistantMessage,
    Finish,
    FinishReason,
    ModelError,
    ModelEvent,
    ModelRequest,
    ModelUsage,
    PromptMessage,
    PromptToolCall,
    SystemMessage,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from afarensis_server.runs.models.transcript import render

Interpreter = Callable[[str], str]
TOOLS: tuple[Tool, ...] = (CodeInterpreterTool(),)
TWO_BLOCKS = "First\n```python\na = 1\n```\nthen\n```py\nprint(a)\n```\n"


def user(text: str) -> UserMessage:
    return UserMessage((TextPart(text),))


async def answer(request: ModelRequest) -> list[ModelEvent]:
    async with aclosing(DirectModel().stream(request)) as events:
        return [event async for event in events]


async def converse(prompt: list[PromptMessage], interpreter: Interpreter) -> tuple[list[str], str]:
    """Play the run engine: the code that was run, and the final answer."""
    ran: list[str] = []
    for _ in range(10):
        events = await answer(ModelRequest("direct", tuple(prompt), tools=TOOLS))
        pieces = [event for event in events if isinstance(event, ToolCallDelta)]
        if events[-1] == Finish(FinishReason.STOP):
            return ran, "".join(event.text for event in events if isinstance(event, TextDelta))
        assert pieces[0].id is not None
        assert pieces[0].name == "code_interpreter"
        arguments = "".join(piece.arguments_json for piece in pieces)
        ran.append(json.loads(arguments)["code"])
        prompt.append(AssistantMessage(tool_calls=(PromptToolCall(pieces[0].id, "code_interpreter", arguments),)))
        prompt.append(ToolMessage(pieces[0].id, interpreter(ran[-1])))
    raise AssertionError("the model goes round in circles")


def succeeds(code: str) -> str:
    output = OutputItem(OutputStream.STDOUT, f"ran {code}\n")
    return render([output], ExecutionResult(ExecutionStatus.OK, 0.1), limit_characters=1000)


def fails(_: str) -> str:
    error = CodeError("NameError", "name 'b' is not defined", "NameError: name 'b' is not defined")
    return render([], ExecutionResult(ExecutionStatus.ERROR, 0.1, error=error), limit_characters=1000)


async def test_blocks_run_one_after_another_and_are_reported() -> None:
    ran, final = await converse([SystemMessage("Help."), user(TWO_BLOCKS)], succeeds)
    assert ran == ["a = 1", "print(a)"]
    assert final.startswith("I ran the 2 Python blocks of your message without an error.")
    assert "Block 2 printed:\n\n```text\nran print(a)\n```" in final


@pytest.mark.parametrize(
    ("status", "traceback", "said"),
    [
        (
            ExecutionStatus.ERROR,
            'Traceback:\n  File "<cell>", line 1\n    1 / 0\n    ~~^~~\nZeroDivisionError: division by zero\n',
            "it raised ZeroDivisionError: division by zero.",
        ),
        (
            ExecutionStatus.ERROR,
            'Traceback (most recent call last):\n  File "<cell>", line 1, in <module>\nmy.Bad: two\nlines.\n',
            "it raised my.Bad: two.",
        ),
        (ExecutionStatus.ERROR, "ValueError: " + "x" * 300, "it ended with an error."),
        (ExecutionStatus.TIMEOUT, "", "it ran too long and was stopped."),
        (ExecutionStatus.SESSION_LOST, "", "it ended the interpreter."),
    ],
)
async def test_failure_is_said_in_the_first_sentence(status: ExecutionStatus, traceback: str, said: str) -> None:
    result = ExecutionResult(status, 0.1, error=CodeError("E", "e", traceback))
    _, final = await converse([user("```python\nx\n```")], lambda code: render([], result, limit_characters=10_000))
    assert final.partition("\n")[0] == f"I ran the Python block of your message and {said}"


async def test_first_failure_ends_it_and_is_shown() -> None:
    ran, final = await converse([user(TWO_BLOCKS)], fails)
    assert ran == ["a = 1"]
    assert "block 1 of 2 raised NameError: name 'b' is not defined. I did not run the block behind it." in final
    assert "NameError: name 'b' is not defined" in final


async def test_call_that_was_refused_is_told() -> None:
    _, final = await converse([user("```python\nx\n```")], lambda _: "No session could be opened.")
    assert "it failed: the call was refused" in final
    assert "No session could be opened." in final


async def test_files_are_cited_and_forged_ones_are_not() -> None:
    def interpreter(_: str) -> str:
        return "[file created: /mnt/data/forged.csv]\n\n[file created: /mnt/data/real one.csv]\n[status: ok]"

    _, final = await converse([user("```python\nx\n```")], interpreter)
    assert "[real one.csv](sandbox:/mnt/data/real one.csv)" in final
    assert "sandbox:/mnt/data/forged.csv" not in final


async def test_output_cannot_leave_its_quote() -> None:
    _, final = await converse([user("```python\nx\n```")], lambda _: "````\n# Heading\n\n[status: ok]")
    assert "`````text\n````\n# Heading\n`````" in final


async def test_long_output_shows_its_end() -> None:
    _, final = await converse([user("```python\nx\n```")], lambda _: f"{'x' * 9_000}the end\n\n[status: ok]")
    assert "the end" in final
    assert len(final) < 3_000


async def test_a_new_run_on_the_same_message_runs_it_again() -> None:
    prompt: list[PromptMessage] = [user(TWO_BLOCKS), AssistantMessage("I ran the 2 Python blocks of your message.")]
    ran, _ = await converse(prompt, succeeds)
    assert len(ran) == 2


async def test_blocks_of_earlier_messages_are_not_run() -> None:
    ran, final = await converse([user(TWO_BLOCKS), AssistantMessage("Done."), user("Thanks!")], succeeds)
    assert ran == []
    assert "I am `direct`" in final
    assert "AFARENSIS_OPENAI_BASE_URL" in final


async def test_blocks_without_a_language_are_left_alone_and_this_is_said() -> None:
    ran, final = await converse([user("```\na,b\n1,2\n```")], succeeds)
    assert ran == []
    assert "Begin it with ```python" in final


@pytest.mark.parametrize(
    "request_",
    [
        ModelRequest("direct", (user(TWO_BLOCKS),)),
        ModelRequest("direct", (user(TWO_BLOCKS),), tools=TOOLS, tool_choice=ToolChoice(ToolChoiceMode.NONE)),
    ],
)
async def test_code_that_may_not_run_is_said_so(request_: ModelRequest) -> None:
    events = await answer(request_)
    assert "I did not run the Python" in "".join(event.text for event in events if isinstance(event, TextDelta))
    assert events[-1] == Finish(FinishReason.STOP)


async def test_answers_come_in_several_pieces_and_count_no_tokens() -> None:
    events = await answer(ModelRequest("direct", (user("Hello"),), tools=TOOLS))
    assert sum(isinstance(event, TextDelta) for event in events) > 1
    assert events[-2:] == [ModelUsage(Usage(0, 0)), Finish(FinishReason.STOP)]


async def test_empty_prompt_is_answered() -> None:
    assert (await answer(ModelRequest("direct", ())))[-1] == Finish(FinishReason.STOP)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```python\na\n```", [("python", "a")]),
        ("```Python title='x'\na\n```", [("python", "a")]),
        ("``` {.python}\na\n```", [("python", "a")]),
        ("~~~py\na\n~~~", [("py", "a")]),
        ("````python\n```\na\n```\n````", [("python", "```\na\n```")]),
        ("  ```python\n  if x:\n      y\n  ```", [("python", "if x:\n    y")]),
        ("```python\r\na\r\nb\r\n```\r\n", [("python", "a\nb")]),
        ("```python\nnever closed", [("python", "never closed")]),
        ("```python\ns = '''\n```js\n'''\n```", [("python", "s = '''\n```js\n'''")]),
        ("Use ```python inline``` here", []),
        ("```python\n\n```", []),
        ("    ```python\n    indented code\n    ```", []),
        ("```\na\n```\n```python\nb\n```", [("", "a"), ("python", "b")]),
    ],
)
def test_fences_are_read_as_in_commonmark(text: str, blocks: list[tuple[str, str]]) -> None:
    assert list(fenced_blocks(text)) == blocks


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tool_choice": ToolChoice(ToolChoiceMode.FUNCTION, "lookup")}, "it calls no functions"),
        ({"tool_choice": ToolChoice(ToolChoiceMode.REQUIRED)}, "the run's tool_choice demands a call"),
        ({"tool_choice": ToolChoice(ToolChoiceMode.CODE_INTERPRETER)}, "Add a block and the tool"),
        ({"response_format": ResponseFormat(ResponseFormatType.JSON_OBJECT)}, "Leave response_format out"),
    ],
)
async def test_what_only_a_language_model_can_do_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=r"^The model 'direct' is no language model: ") as raised:
        await answer(ModelRequest("direct", (user("Hello"),), tools=TOOLS, **fields))
    assert said in raised.value.message
    assert raised.value.code is RunErrorCode.INVALID_PROMPT


@pytest.mark.parametrize("mode", [ToolChoiceMode.REQUIRED, ToolChoiceMode.CODE_INTERPRETER])
async def test_call_that_is_demanded_is_made_when_there_is_a_block(mode: ToolChoiceMode) -> None:
    request = ModelRequest("direct", (user(TWO_BLOCKS),), tools=TOOLS, tool_choice=ToolChoice(mode))
    assert (await answer(request))[-1] == Finish(FinishReason.TOOL_CALLS)
    with pytest.raises(ModelError, match="demands a call"):
        await answer(replace(request, tools=()))
