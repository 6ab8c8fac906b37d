"""Reads the JSON objects of requests: each field by its type, and what nobody asked for is told."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, cast

from ..validation import Reason, Violations, echo, is_deeper

_NAMES: Mapping[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


#: Items of one array, and members of one object, that are looked at: more than any limit allows, so that the limit is
#: what is told of.
_MOST_ITEMS = 1_000
#: What no double and no column of a database holds.
_LARGEST = 2**63 - 1
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Fields:
    """One object of a request. Ask for every field that it may have, then `finish`.

    What is wrong goes to ``found``; the field is then as if it had not been given. Unless a method says otherwise, null
    is the same as nothing.
    """

    def __init__(self, value: Mapping[str, Any], found: Violations, path: str = "") -> None:
        self._value = value
        self.found = found
        #: The object's own path, with its dot.
        self.path = path
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the field is given, even as null."""
        self._asked.add(name)
        return name in self._value

    def raw(self, name: str) -> Any:
        """The field, whatever it is."""
        self._asked.add(name)
        return self._value.get(name)

    def string(self, name: str) -> str | None:
        value: str | None = self._typed(name, str, "a string")
        return value

    def boolean(self, name: str) -> bool | None:
        value: bool | None = self._typed(name, bool, "a boolean")
        return value

    def integer(self, name: str) -> int | None:
        value = self.raw(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return self._bounded(name, value)
        self.mistyped(name, "an integer")
        return None

    def number(self, name: str) -> float | None:
        value = self.raw(name)
        if value is None or isinstance(value, float):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return self._bounded(name, value)
        self.mistyped(name, "a decimal")
        return None

    def nested(self, name: str) -> "Fields | None":
        """An object in a field."""
        value = self._typed(name, dict, "an object")
        return None if value is None else Fields(value, self.found, f"{self.path}{name}.")

    def objects(self, name: str) -> "list[Fields] | None":
        """The objects of an array."""
        value = self._typed(name, list, "an array of objects")
        if value is None:
            return None
        items = []
        for index, item in enumerate(value[:_MOST_ITEMS]):
            path = f"{name}[{index}]"
            if isinstance(item, dict):
                items.append(Fields(item, self.found, f"{self.path}{path}."))
            else:
                self._say_mistyped(path, "an object", item)
        return items

    def strings(self, name: str) -> list[str] | None:
        """The strings of an array."""
        value = self._typed(name, list, "an array of strings")
        if value is None:
            return None
        items = value[:_MOST_ITEMS]
        for index, item in enumerate(items):
            if not isinstance(item, str):
                self._say_mistyped(f"{name}[{index}]", "a string", item)
        return [item for item in items if isinstance(item, str)]

    def metadata(self) -> dict[str, str]:
        """The field ``metadata``; null clears it."""
        given = self._typed("metadata", dict, "an object") or {}
        value = dict(islice(given.items(), _MOST_ITEMS))
        for key, item in value.items():
            if not isinstance(item, str):
                self._say_mistyped(f"metadata.{echo(key)}", "a string", item)
        return {key: item for key, item in value.items() if isinstance(item, str)}

    def choice(self, name: str, supported: Sequence[str], default: str | None = None) -> str | None:
        """One of some strings."""
        value = self.string(name)
        if value is None:
            return default
        if value not in supported:
            self.unsupported(name, value, supported)
            return default
        return value

    def unsupported(self, name: str, value: str, supported: Sequence[str]) -> None:
        self.found.unsupported(self.path + name, value, supported)

    def mistyped(self, name: str, expected: str) -> None:
        """Say that a field has the wrong type."""
        self._say_mistyped(name, expected, self._value.get(name))

    def required(self, name: str) -> None:
        self.found.required(self.path + name)

    def finish(self) -> None:
        """Say what nobody asked for."""
        for name in islice(self._value, _MOST_ITEMS):
            if name not in self._asked:
                path = f"{self.path}{echo(name)}"
                self.found.add(path, Reason.UNKNOWN, f"Unknown parameter: '{path}'.")

    def _bounded(self, name: str, value: int | None) -> int | None:
        if value is None or abs(value) <= _LARGEST:
            return value
        path = self.path + name
        text = f"Invalid '{path}': the number is larger than any that can be meant."
        self.found.add(path, Reason.OUT_OF_RANGE_VALUE, text)
        return None

    def _typed(self, name: str, kind: type, expected: str) -> Any:
        value = self.raw(name)
        if value is None or isinstance(value, kind):
            return value
        self.mistyped(name, expected)
        return None

    def _say_mistyped(self, name: str, expected: str, value: object) -> None:
        path = self.path + name
        got = _NAMES.get(type(value), "something else")
        text = f"Invalid type for '{path}': expected {expected}, but got {got} instead."
        self.found.add(path, Reason.INVALID_TYPE, text)


def parse_object(body: bytes, depth: int) -> dict[str, Any]:
    """The JSON object that a body is; ValueError says why it is none. An empty body is an empty object.

    ``depth``: how many arrays and objects may be within one another.
    """
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The server expects a JSON payload, but what was sent was not valid JSON: "
            f"{str(error)[:200]}.)"
        ) from error
    if is_deeper(value, depth):
        raise ValueError(f"Invalid body: arrays and objects may be nested {depth} deep, and not deeper.")
    if _SURROGATE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Invalid body: text may not contain U+{ord(error.object[error.start]):04X}.") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"Invalid body: expected an object, but got {_NAMES.get(type(value), 'something else')} instead."
        )
    return cast(dict[str, Any], value)
