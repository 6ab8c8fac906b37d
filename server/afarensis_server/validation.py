"""Validation of what clients send: every violation is collected, and all are reported at once.

Texts follow the Assistants API's own, since clients match on them. Field paths are those of the contract.

    violations = Violations()
    violations.string("name", fields.get("name"), maximum=256)
    check_metadata(violations, "metadata", fields.get("metadata", {}))
    violations.check()
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .domain.tools import CodeInterpreterTool, FunctionTool, ResponseFormat, ResponseFormatType, Tool
from .errors import FieldViolation, InvalidFields

#: What a function and a response format may be called: models write these names.
NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]+")

_ECHO_CHARACTERS = 48
#: What is told of one request: its sender mends those first.
_MOST_VIOLATIONS = 1_000

# No encoding of UTF-8 has surrogates, and no text column of PostgreSQL takes NUL.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Reason(StrEnum):
    """Why a field is refused; stable, for programs."""

    REQUIRED = "REQUIRED"
    STRING_TOO_LONG = "STRING_TOO_LONG"
    INVALID_CHARACTER = "INVALID_CHARACTER"
    INVALID_FORMAT = "INVALID_FORMAT"
    INVALID_VALUE = "INVALID_VALUE"
    INVALID_JSON = "INVALID_JSON"
    TOO_MANY_ITEMS = "TOO_MANY_ITEMS"
    DUPLICATE_ITEM = "DUPLICATE_ITEM"
    OUT_OF_RANGE_VALUE = "OUT_OF_RANGE_VALUE"
    INVALID_TYPE = "INVALID_TYPE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """Limits of the fields that several objects have in common."""

    #: Pairs in the metadata of one object.
    metadata_pairs: int = 16
    #: Characters of a key of metadata.
    metadata_key_characters: int = 64
    #: Characters of a value of metadata.
    metadata_value_characters: int = 512
    #: Characters of the name of a function or of a response format.
    function_name_characters: int = 64
    #: Seconds that a tool may let one execution take at most.
    execution_seconds: float = 600
    #: The highest sampling temperature; the lowest is 0.
    temperature: float = 2
    #: The highest nucleus sampling mass; the lowest is 0.
    top_p: float = 1
    #: Characters of a reasoning effort, in the provider's words.
    reasoning_effort_characters: int = 64
    #: Characters of a request id.
    request_id_characters: int = 128
    #: Arrays and objects of JSON within one another. What is stored must be written again, which takes stack for each.
    json_depth: int = 64
    #: Items of one page of a list.
    page_size: int = 100


def is_deeper(value: object, most: int) -> bool:
    """Whether JSON has more than that many arrays and objects within one another; looks without recursion."""
    depth, level = 0, [value]
    while level and depth <= most:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += [one for one in item.values() if isinstance(one, dict | list)]
            elif isinstance(item, list):
                inner += [one for one in item if isinstance(one, dict | list)]
        depth, level = depth + 1, inner
    return depth > most


def echo(value: str) -> str:
    """A client's own words, cut to what a sentence can carry, without what cannot be encoded."""
    short = value if len(value) <= _ECHO_CHARACTERS else value[: _ECHO_CHARACTERS - 1] + "…"
    return _UNSTORABLE.sub("\ufffd", short)


class Violations:
    """Collects what is wrong with a request."""

    def __init__(self, limits: SharedLimits = SharedLimits()) -> None:
        self.limits = limits
        self._found: list[FieldViolation] = []
        self._prefix = ""

    def under(self, prefix: str) -> "Violations":
        """The same collector for the fields of a nested message: ``under("messages[0]")``."""
        nested = Violations(self.limits)
        nested._found = self._found
        nested._prefix = f"{self._prefix}{prefix}."
        return nested

    def path(self, field: str) -> str:
        """The field's path from the top of the request."""
        return self._prefix + field

    def add(self, field: str, reason: Reason, description: str) -> None:
        """Note one, unless there are so many that another one helps nobody."""
        if len(self._found) >= _MOST_VIOLATIONS:
            return
        self._found.append(FieldViolation(self.path(field), reason, description))

    def check(self) -> None:
        """Raise InvalidFields if there is any violation."""
        if self._found:
            raise InvalidFields(self._found)

    def required(self, field: str) -> None:
        self.add(field, Reason.REQUIRED, f"Missing required parameter: '{self.path(field)}'.")

    def string(
        self,
        field: str,
        value: str | None,
        *,
        maximum: int | None = None,
        required: bool = False,
        pattern: re.Pattern[str] | None = None,
        called: str | None = None,
    ) -> None:
        """Check a string. ``maximum`` counts characters; ``called`` is the field's name in texts, where it differs."""
        name = self.path(called or field)
        if not value:
            if required:
                self.add(field, Reason.REQUIRED, f"Missing required parameter: '{name}'.")
        elif maximum is not None and len(value) > maximum:
            self.add(
                field,
                Reason.STRING_TOO_LONG,
                f"Invalid '{name}': string too long. Expected a string with maximum length {maximum}, "
                f"but got a string with length {len(value)} instead.",
            )
        elif bad := _UNSTORABLE.search(value):
            self.add(
                field,
                Reason.INVALID_CHARACTER,
                f"Invalid '{name}': text may not contain U+{ord(bad[0]):04X}, which is at index {bad.start()}.",
            )
        elif pattern is not None and not pattern.fullmatch(value):
            self.add(
                field,
                Reason.INVALID_FORMAT,
                f"Invalid '{name}': string does not match pattern. "
                f"Expected a string that matches the pattern '^{pattern.pattern}$'.",
            )

    def number(
        self, field: str, value: float | None, *, minimum: float | None = None, maximum: float | None = None
    ) -> None:
        """Check that a number is finite and within an inclusive range."""
        if value is None:
            return
        kind = "integer" if isinstance(value, int) else "decimal"
        problem = None
        if not math.isfinite(value):
            problem = f"not a finite number. Got {value}"
        elif minimum is not None and value < minimum:
            problem = f"{kind} below minimum value. Expected a value >= {_plain(minimum)}, but got {value} instead"
        elif maximum is not None and value > maximum:
            problem = f"{kind} above maximum value. Expected a value <= {_plain(maximum)}, but got {value} instead"
        if problem:
            self.add(field, Reason.OUT_OF_RANGE_VALUE, f"Invalid '{self.path(field)}': {problem}.")

    def unsupported(self, field: str, value: str, supported: Sequence[str]) -> None:
        """Say that a value is none of those that there are."""
        *others, last = (f"'{one}'" for one in supported)
        listed = f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}" if others else last
        self.add(field, Reason.INVALID_VALUE, f"Invalid value: '{echo(value)}'. Supported values are: {listed}.")

    def count(self, field: str, items: Sequence[object], *, maximum: int) -> None:
        """Check the number of items of a list."""
        if len(items) > maximum:
            self.add(
                field,
                Reason.TOO_MANY_ITEMS,
                f"Invalid '{self.path(field)}': array too long. Expected an array with maximum length {maximum}, "
                f"but got an array with length {len(items)} instead.",
            )

    def duplicate(self, field: str, value: str) -> None:
        text = f"Invalid '{self.path(field)}': '{echo(value)}' is there already. Each may stand only once."
        self.add(field, Reason.DUPLICATE_ITEM, text)

    def json_object(self, field: str, text: str) -> None:
        """Check that a text is one JSON object."""
        problem = None
        too_deep = f"arrays and objects may be nested {self.limits.json_depth} deep, and not deeper."
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
            if not isinstance(value, dict):
                problem = "expected a JSON object."
            elif is_deeper(value, self.limits.json_depth):
                problem = too_deep
        except RecursionError:
            problem = too_deep
        except ValueError as error:
            problem = f"not valid JSON. {echo(str(error))}"
        if problem:
            self.add(field, Reason.INVALID_JSON, f"Invalid '{self.path(field)}': {problem}")


def _plain(limit: float) -> str:
    """A limit as people write it: 2 and not 2.0."""
    return str(int(limit)) if limit == int(limit) else str(limit)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def check_request_id(violations: Violations, request_id: str) -> None:
    violations.string("request_id", request_id, maximum=violations.limits.request_id_characters)


def check_metadata(violations: Violations, field: str, metadata: Mapping[str, str]) -> None:
    """Check pairs of a client's own: their number, and the lengths of keys (at least 1 character) and values."""
    limits = violations.limits
    path = violations.path(field)
    if len(metadata) > limits.metadata_pairs:
        violations.add(
            field,
            Reason.TOO_MANY_ITEMS,
            f"Invalid '{path}': too many properties. Expected an object with at most {limits.metadata_pairs} "
            f"properties, but got an object with {len(metadata)} properties instead.",
        )
        return
    for key, value in metadata.items():
        if not key:
            violations.add(field, Reason.REQUIRED, f"Invalid property name in '{path}': a key must not be empty.")
        elif len(key) > limits.metadata_key_characters:
            violations.add(
                field,
                Reason.STRING_TOO_LONG,
                f"Invalid property name in '{path}': '{echo(key)}' is too long. Expected a string with maximum length "
                f"{limits.metadata_key_characters}, but got a string with length {len(key)} instead.",
            )
        elif _UNSTORABLE.search(key):
            violations.add(
                field,
                Reason.INVALID_CHARACTER,
                f"Invalid property name in '{path}': '{echo(key)}' has a character that text may not contain.",
            )
        else:
            violations.string(f"{field}.{key}", value, maximum=limits.metadata_value_characters)


def check_tools(violations: Violations, field: str, tools: Sequence[Tool], *, maximum: int) -> None:
    """Check the tools of an assistant or a run: their number, and that none could be confused with another."""
    violations.count(field, tools, maximum=maximum)
    seen: set[str] = set()
    # What is behind the limit is not looked at: a request of millions of tools costs no more than one at the limit.
    for index, tool in enumerate(tools[:maximum]):
        match tool:
            case CodeInterpreterTool():
                if tool.type in seen:
                    violations.duplicate(f"{field}[{index}]", tool.type)
                seen.add(tool.type)
                _check_execution_timeout(violations, f"{field}[{index}].code_interpreter", tool)
            case FunctionTool():
                _check_function(violations, f"{field}[{index}].function", tool, seen)


def _check_execution_timeout(violations: Violations, field: str, tool: CodeInterpreterTool) -> None:
    seconds = tool.execution_timeout_seconds
    if seconds is not None and not 0 < seconds <= violations.limits.execution_seconds:
        path = violations.path(f"{field}.execution_timeout")
        violations.add(
            f"{field}.execution_timeout",
            Reason.OUT_OF_RANGE_VALUE,
            f"Invalid '{path}': expected more than 0 and at most {violations.limits.execution_seconds:g} seconds, "
            f"but got {seconds:g} instead.",
        )


def _check_function(violations: Violations, field: str, tool: FunctionTool, seen: set[str]) -> None:
    _check_name(violations, f"{field}.name", tool.name)
    if tool.name == CodeInterpreterTool().type:
        text = f"Invalid '{violations.path(field)}.name': '{tool.name}' is the name of a tool of the server."
        violations.add(f"{field}.name", Reason.INVALID_VALUE, text)
    key = f"function {tool.name}"
    if tool.name and key in seen:
        violations.duplicate(f"{field}.name", tool.name)
    seen.add(key)
    violations.string(f"{field}.description", tool.description)
    if tool.parameters_json is not None:
        violations.json_object(f"{field}.parameters_json", tool.parameters_json)


def _check_name(violations: Violations, field: str, name: str | None) -> None:
    maximum = violations.limits.function_name_characters
    violations.string(field, name, maximum=maximum, required=True, pattern=NAME_PATTERN)


def check_response_format(violations: Violations, field: str, response_format: ResponseFormat | None) -> None:
    if response_format is None or response_format.type is not ResponseFormatType.JSON_SCHEMA:
        return
    nested = violations.under(f"{field}.json_schema")
    _check_name(nested, "name", response_format.name)
    nested.string("description", response_format.description)
    if response_format.schema_json:
        nested.json_object("schema_json", response_format.schema_json)
    else:
        nested.required("schema_json")


def check_sampling(
    violations: Violations, *, temperature: float | None, top_p: float | None, reasoning_effort: str | None
) -> None:
    """Check how the model is to sample, for assistants and runs alike."""
    limits = violations.limits
    violations.number("temperature", temperature, minimum=0, maximum=limits.temperature)
    violations.number("top_p", top_p, minimum=0, maximum=limits.top_p)
    violations.string("reasoning_effort", reasoning_effort, maximum=limits.reasoning_effort_characters)


def check_file_ids(violations: Violations, field: str, file_ids: Sequence[str], *, maximum: int) -> None:
    """Check the number of file ids, and that none stands twice. Whether the files exist, only the store can tell."""
    violations.count(field, file_ids, maximum=maximum)
    seen: set[str] = set()
    for index, file_id in enumerate(file_ids[:maximum]):
        if not file_id:
            violations.required(f"{field}[{index}]")
        elif file_id in seen:
            violations.duplicate(f"{field}[{index}]", file_id)
        seen.add(file_id)


def check_page_size(violations: Violations, size: int, maximum: int | None = None) -> None:
    """Check a page size; 0 stands for the default. Without a maximum, that of most lists."""
    maximum = violations.limits.page_size if maximum is None else maximum
    violations.number("page_size", size, minimum=0 if size == 0 else 1, maximum=maximum)
