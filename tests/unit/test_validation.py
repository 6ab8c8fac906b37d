from collections.abc import Callable

import pytest

from afarensis_server.domain.tools import CodeInterpreterTool, FunctionTool, ResponseFormat, ResponseFormatType, Tool
from afarensis_server.errors import InvalidFields
from afarensis_server.validation import (
    Violations,
    check_file_ids,
    check_metadata,
    check_response_format,
    check_sampling,
    check_tools,
)


def found(check: Callable[[Violations], None]) -> list[tuple[str, str, str]]:
    violations = Violations()
    check(violations)
    with pytest.raises(InvalidFields) as refused:
        violations.check()
    return [(violation.field, violation.reason, violation.description) for violation in refused.value.violations]


def accepted(check: Callable[[Violations], None]) -> None:
    violations = Violations()
    check(violations)
    violations.check()


def test_too_long_string_gets_the_original_text() -> None:
    text = (
        "Invalid 'name': string too long. Expected a string with maximum length 256, "
        "but got a string with length 257 instead."
    )
    assert found(lambda v: v.string("name", "x" * 257, maximum=256)) == [("name", "STRING_TOO_LONG", text)]


def test_length_counts_characters_not_bytes() -> None:
    accepted(lambda v: v.string("name", "漢" * 256, maximum=256))


@pytest.mark.parametrize("character", ["\x00", "\ud800"])
def test_text_that_no_database_takes_is_refused(character: str) -> None:
    ((field, reason, _),) = found(lambda v: v.string("name", f"a{character}", maximum=9))
    assert (field, reason) == ("name", "INVALID_CHARACTER")


def test_required_string_that_is_empty_is_missing() -> None:
    expected = ("model", "REQUIRED", "Missing required parameter: 'model'.")
    assert found(lambda v: v.string("model", "", maximum=9, required=True)) == [expected]


def test_nested_fields_are_named_by_their_whole_path() -> None:
    ((field, _, description),) = found(lambda v: v.under("messages[3]").string("text", "xx", maximum=1))
    assert field == "messages[3].text"
    assert description.startswith("Invalid 'messages[3].text': ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2.1])
def test_temperature_outside_of_its_range_is_refused(value: float) -> None:
    ((field, reason, _),) = found(lambda v: check_sampling(v, temperature=value, top_p=None, reasoning_effort=None))
    assert (field, reason) == ("temperature", "OUT_OF_RANGE_VALUE")


def test_range_ends_are_allowed() -> None:
    accepted(lambda v: check_sampling(v, temperature=2.0, top_p=0.0, reasoning_effort="low"))


def test_number_above_its_maximum_gets_the_original_text() -> None:
    ((_, _, description),) = found(lambda v: check_sampling(v, temperature=3.5, top_p=None, reasoning_effort=None))
    assert description == (
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3.5 instead."
    )


def test_metadata_is_limited_in_pairs_keys_and_values() -> None:
    assert [
        reason for _, reason, _ in found(lambda v: check_metadata(v, "metadata", {str(n): "" for n in range(17)}))
    ] == ["TOO_MANY_ITEMS"]
    pairs = {"": "x", "k" * 65: "x", "fine": "v" * 513, "nul\x00": "x", "ok": ""}
    assert [(field, reason) for field, reason, _ in found(lambda v: check_metadata(v, "metadata", pairs))] == [
        ("metadata", "REQUIRED"),
        ("metadata", "STRING_TOO_LONG"),
        ("metadata.fine", "STRING_TOO_LONG"),
        ("metadata", "INVALID_CHARACTER"),
    ]


def test_metadata_at_its_limits_is_accepted() -> None:
    accepted(lambda v: check_metadata(v, "metadata", {f"{n:064}": "v" * 512 for n in range(16)}))


def test_tools_that_could_be_confused_are_refused() -> None:
    tools: list[Tool] = [CodeInterpreterTool(), FunctionTool("f"), CodeInterpreterTool(), FunctionTool("f")]
    assert [(field, reason) for field, reason, _ in found(lambda v: check_tools(v, "tools", tools, maximum=128))] == [
        ("tools[2]", "DUPLICATE_ITEM"),
        ("tools[3].function.name", "DUPLICATE_ITEM"),
    ]


def test_function_named_like_a_tool_of_the_server_is_refused() -> None:
    ((field, reason, text),) = found(lambda v: check_tools(v, "tools", [FunctionTool("code_interpreter")], maximum=2))
    assert (field, reason) == ("tools[0].function.name", "INVALID_VALUE")
    assert text == "Invalid 'tools[0].function.name': 'code_interpreter' is the name of a tool of the server."


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "REQUIRED"), ("a b", "INVALID_FORMAT"), ("a\n", "INVALID_FORMAT"), ("é", "INVALID_FORMAT")],
)
def test_function_names_are_of_the_characters_that_models_write(name: str, reason: str) -> None:
    ((field, actual, _),) = found(lambda v: check_tools(v, "tools", [FunctionTool(name)], maximum=1))
    assert (field, actual) == ("tools[0].function.name", reason)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a": NaN}', '{"a":' * 100_000, '{"a": ' + "1" * 5_000 + "}"])
def test_parameters_that_are_not_a_json_object_are_refused(text: str) -> None:
    ((field, reason, _),) = found(lambda v: check_tools(v, "tools", [FunctionTool("f", None, text)], maximum=1))
    assert (field, reason) == ("tools[0].function.parameters_json", "INVALID_JSON")


def test_depth_of_json_has_a_limit() -> None:
    def parameters(depth: int) -> FunctionTool:
        return FunctionTool("f", None, '{"a":' * depth + "1" + "}" * depth)

    accepted(lambda v: check_tools(v, "tools", [parameters(64)], maximum=1))
    ((_, reason, text),) = found(lambda v: check_tools(v, "tools", [parameters(65)], maximum=1))
    assert (reason, text) == (
        "INVALID_JSON",
        "Invalid 'tools[0].function.parameters_json': arrays and objects may be nested 64 deep, and not deeper.",
    )


def test_schema_format_needs_a_name_and_a_schema() -> None:
    response_format = ResponseFormat(ResponseFormatType.JSON_SCHEMA)
    assert [
        (field, reason)
        for field, reason, _ in found(lambda v: check_response_format(v, "response_format", response_format))
    ] == [("response_format.json_schema.name", "REQUIRED"), ("response_format.json_schema.schema_json", "REQUIRED")]


def test_file_ids_are_limited_and_unique() -> None:
    field = "tool_resources.code_interpreter.file_ids"
    assert [
        (path, reason)
        for path, reason, _ in found(lambda v: check_file_ids(v, field, ["file-a", "", "file-a", "x"], maximum=3))
    ] == [(field, "TOO_MANY_ITEMS"), (f"{field}[1]", "REQUIRED"), (f"{field}[2]", "DUPLICATE_ITEM")]


@pytest.mark.parametrize("seconds", [0, -1, 600.5, float("nan"), float("inf")])
def test_execution_timeout_outside_of_its_range_is_refused(seconds: float) -> None:
    ((field, reason, _),) = found(lambda v: check_tools(v, "tools", [CodeInterpreterTool(seconds)], maximum=1))
    assert (field, reason) == ("tools[0].code_interpreter.execution_timeout", "OUT_OF_RANGE_VALUE")


def test_words_of_the_client_are_echoed_in_short_and_encodable() -> None:
    tools = [FunctionTool("\ud800" * 1_000), FunctionTool("x" * 1_000), FunctionTool("x" * 1_000)]
    for _, _, description in found(lambda v: check_tools(v, "tools", tools, maximum=3)):
        assert len(description.encode()) < 300
