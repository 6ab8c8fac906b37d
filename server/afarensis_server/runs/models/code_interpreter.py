"""The tool `code_interpreter` as models see it, and how its arguments are read."""

import json
from collections.abc import Mapping

import jiter

#: What models call. The client's functions may not have this name.
NAME = "code_interpreter"

#: JSON Schema of the arguments.
PARAMETERS: Mapping[str, object] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "Python source code to run."}},
    "required": ["code"],
    "additionalProperties": False,
}


def description(code_seconds: float) -> str:
    """What a model has to know to use the interpreter well."""
    return (
        "Runs Python code in a stateful Jupyter-like session: variables, imports and functions stay for later calls. "
        "Files are in /mnt/data, which is also the working directory: read the user's files there and write results "
        "there. There is no network and nothing can be installed. "
        "Printed text, tracebacks and the value of the last expression come back to you. "
        "Figures of matplotlib and images that are displayed are shown to the user automatically, above your answer: "
        "do not embed them in it, and save one only if a file of it is wanted. "
        f"One call may run for {code_seconds:g} seconds. "
        "To hand a file to the user, link it in your answer as sandbox:/mnt/data/<name>, "
        "for example [summary](sandbox:/mnt/data/summary.csv). "
        "When code fails, read the error, correct the code and call again."
    )


def arguments(code: str) -> str:
    """The arguments of a call, as a model writes them."""
    return json.dumps({"code": code}, ensure_ascii=False)


class InvalidCall(ValueError):
    """A call whose arguments cannot be read. The message is for the model: it says how to correct the call."""


def parse_code(arguments_json: str) -> str:
    """The code in the arguments of a call; raises InvalidCall."""
    example = 'Call code_interpreter with a JSON object like {"code": "print(1 + 1)"}.'
    if not arguments_json.strip():
        raise InvalidCall(f"The arguments are empty, so nothing was run. {example}")
    try:
        # Not strict: raw line breaks inside the string are a common slip, and there is only one way to read them.
        parsed = json.loads(arguments_json, strict=False)
    except (ValueError, RecursionError) as error:
        raise InvalidCall(f"The arguments are not valid JSON, so nothing was run: {error}. {example}") from None
    if not isinstance(parsed, dict):
        raise InvalidCall(f"The arguments are {_json_type(parsed)} instead of an object; nothing was run. {example}")
    if "code" not in parsed:
        given = ", ".join(repr(name) for name in list(parsed)[:5]) or "no fields"
        raise InvalidCall(f"The field 'code' is missing (there is {given}); nothing was run. {example}")
    code = parsed["code"]
    if not isinstance(code, str):
        raise InvalidCall(f"The field 'code' is {_json_type(code)} instead of a string; nothing was run. {example}")
    if not code.strip():
        raise InvalidCall(f"The field 'code' is empty; nothing was run. {example}")
    if "\0" in code:
        raise InvalidCall(f"The field 'code' holds a NUL character; nothing was run. {example}")
    try:
        code.encode()
    except UnicodeEncodeError:
        raise InvalidCall(
            f"The field 'code' holds half of a surrogate pair, which is no character; nothing was run. {example}"
        ) from None
    return code


def partial_code(arguments_so_far: str) -> str:
    """The code as far as it can be told from the beginning of the arguments.

    What it returns for a longer beginning starts with what it returned for a shorter one, except that arguments which
    turn out to be broken give an empty string.
    """
    try:
        parsed = jiter.from_json(arguments_so_far.encode(errors="replace"), partial_mode="trailing-strings")
    except ValueError:
        return ""
    code = parsed.get("code") if isinstance(parsed, dict) else None
    return code if isinstance(code, str) else ""


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
