"""Prompts and tools as chat completions have them."""

import json

import pytest

from afarensis_server.domain.tools import (
    CodeInterpreterTool,
    FunctionTool,
    ResponseFormat,
    ResponseFormatType,
    ToolChoice,
    ToolChoiceMode,
)
from afarensis_server.runs.models.openai_requests import Dialect, body
from afarensis_server.runs.models.protocol import (
    AssistantMessage,
    ImageBytes,
    ImageUrl,
    ModelError,
    ModelRequest,
    PromptMessage,
    PromptToolCall,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)


def messages(*prompt: PromptMessage, dialect: Dialect | None = None) -> object:
    return body(ModelRequest("m", prompt), dialect or Dialect())["messages"]


def test_what_is_not_given_is_not_sent() -> None:
    assert body(ModelRequest("m", ()), Dialect()) == {
        "model": "m",
        "messages": [],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_conversation_with_a_call_keeps_its_order() -> None:
    call = PromptToolCall("call_1", "code_interpreter", '{"code": "1"}')
    assert messages(
        SystemMessage("Be brief."),
        UserMessage((TextPart("Hi"),)),
        AssistantMessage(tool_calls=(call,)),
        ToolMessage("call_1", "[status: ok]"),
        AssistantMessage("Done."),
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "code_interpreter", "arguments": '{"code": "1"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "[status: ok]"},
        {"role": "assistant", "content": "Done."},
    ]


def test_user_messages_in_a_row_become_one() -> None:
    assert messages(UserMessage((TextPart("a"),)), UserMessage((TextPart("b"),))) == [
        {"role": "user", "content": "a\n\nb"}
    ]


def test_images_of_the_user_are_sent_as_data_and_links() -> None:
    parts = (TextPart("Look"), ImageBytes(b"png", "image/png", "low"), ImageUrl("https://example.org/x.png"))
    assert messages(UserMessage(parts)) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
            ],
        }
    ]


def test_images_that_code_showed_follow_all_tool_messages() -> None:
    prompt = (
        AssistantMessage(tool_calls=(PromptToolCall("a", "f", "{}"), PromptToolCall("b", "f", "{}"))),
        ToolMessage("a", "1", (ImageBytes(b"png", "image/png"),)),
        ToolMessage("b", "2"),
    )
    sent = messages(*prompt)
    assert isinstance(sent, list)
    assert [message["role"] for message in sent] == ["assistant", "tool", "tool", "user"]
    without = messages(*prompt, dialect=Dialect(tool_images=False))
    assert isinstance(without, list)
    assert [message["role"] for message in without] == ["assistant", "tool", "tool"]


@pytest.mark.parametrize("arguments", ['{"code": "x', "[1]", "", "null", "[" * 100_000])
def test_broken_arguments_of_earlier_calls_are_wrapped(arguments: str) -> None:
    sent = messages(AssistantMessage(tool_calls=(PromptToolCall("a", "f", arguments),)))
    assert isinstance(sent, list)
    assert json.loads(sent[0]["tool_calls"][0]["function"]["arguments"]) == {"invalid_arguments": arguments}


def test_tools_are_functions() -> None:
    request = ModelRequest(
        "m",
        (),
        tools=(
            CodeInterpreterTool(),
            FunctionTool("f", "Does f.", '{"type": "object"}', strict=True),
            FunctionTool("g"),
        ),
        tool_choice=ToolChoice(ToolChoiceMode.CODE_INTERPRETER),
        parallel_tool_calls=False,
        code_seconds=60,
    )
    sent = body(request, Dialect())
    tools = sent["tools"]
    assert isinstance(tools, list)
    assert tools[0]["function"]["name"] == "code_interpreter"
    assert "60 seconds" in tools[0]["function"]["description"]
    assert tools[1]["function"] == {
        "name": "f",
        "description": "Does f.",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert tools[2] == {"type": "function", "function": {"name": "g"}}
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "code_interpreter"}}
    assert sent["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice(), None),
        (ToolChoice(ToolChoiceMode.NONE), "none"),
        (ToolChoice(ToolChoiceMode.REQUIRED), "required"),
        (ToolChoice(ToolChoiceMode.FUNCTION, "f"), {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice_is_translated(choice: ToolChoice, sent: object) -> None:
    request = ModelRequest("m", (), tools=(FunctionTool("f"),), tool_choice=choice)
    assert body(request, Dialect()).get("tool_choice") == sent


def test_response_formats_are_translated() -> None:
    def sent(response_format: ResponseFormat) -> object:
        return body(ModelRequest("m", (), response_format=response_format), Dialect()).get("response_format")

    assert sent(ResponseFormat()) is None
    assert sent(ResponseFormat(ResponseFormatType.JSON_OBJECT)) == {"type": "json_object"}
    schema = ResponseFormat(ResponseFormatType.JSON_SCHEMA, "person", schema_json='{"type": "object"}', strict=True)
    assert sent(schema) == {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": {"type": "object"}, "strict": True},
    }


def test_schema_that_is_no_json_is_an_invalid_prompt() -> None:
    with pytest.raises(ModelError, match="parameters of the function 'f'"):
        body(ModelRequest("m", (), tools=(FunctionTool("f", parameters_json="{"),)), Dialect())
