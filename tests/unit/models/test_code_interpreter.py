"""How the arguments of a code interpreter call are read, whole and while they arrive."""

import json

import pytest

from afarensis_server.runs.models.code_interpreter import arguments, description, parse_code, partial_code


@pytest.mark.parametrize("code", ["print(1)", "s = '\"\\n'\n", "print('é 图 😀')", "a\tb"])
def test_code_survives_the_way_into_arguments_and_back(code: str) -> None:
    assert parse_code(arguments(code)) == code


def test_raw_line_breaks_inside_the_string_are_accepted() -> None:
    assert parse_code('{"code": "a = 1\nprint(a)"}') == "a = 1\nprint(a)"


@pytest.mark.parametrize(
    ("arguments_json", "said"),
    [
        ("", "are empty"),
        ("  \n", "are empty"),
        ('{"code": "print(1', "not valid JSON"),
        ("print(1)", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('["print(1)"]', "an array instead of an object"),
        ("null", "null instead of an object"),
        ('{"source": "print(1)"}', "'code' is missing (there is 'source')"),
        ("{}", "'code' is missing (there is no fields)"),
        ('{"code": 5}', "'code' is a number instead of a string"),
        ('{"code": true}', "'code' is a boolean instead of a string"),
        ('{"code": ["a"]}', "'code' is an array instead of a string"),
        ('{"code": "  "}', "'code' is empty"),
        ('{"code": "a\\u0000b"}', "NUL character"),
        ('{"code": "\\ud83d"}', "half of a surrogate pair"),
    ],
)
def test_unreadable_arguments_are_explained_to_the_model(arguments_json: str, said: str) -> None:
    with pytest.raises(ValueError, match="nothing was run") as raised:
        parse_code(arguments_json)
    assert said in str(raised.value)
    assert '{"code": "print(1 + 1)"}' in str(raised.value)


def test_code_grows_while_its_arguments_arrive() -> None:
    code = "print('é \"x\" 😀')\n\tpass # \\ "
    for written in (
        arguments(code),
        json.dumps({"code": code}),
        json.dumps({"other": [1, {"code": "no"}], "code": code}),
    ):
        shown = ""
        for end in range(len(written) + 1):
            more = partial_code(written[:end])
            assert more.startswith(shown)
            shown = more
        assert shown == code


@pytest.mark.parametrize("arguments_json", ["print(1)", "[1", '{"code": 5', '{"code": nul', "5"])
def test_what_cannot_be_code_shows_nothing(arguments_json: str) -> None:
    assert partial_code(arguments_json) == ""


def test_description_states_the_time_limit() -> None:
    assert "120 seconds" in description(120.0)
    assert "2.5 seconds" in description(2.5)
