"""Refuses requests that leave out the id of what they are about.

A request names an object in a field `..._id`. Without this, an empty one would be looked up, and found to be nothing.
Other required fields are checked with their other limits, where all that is wrong with them is collected.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.message import Message

from ..validation import Violations

_SUFFIX = "_id"
#: Ids that may be left out, by message and path: they make a call repeatable, or narrow a list down.
_OPTIONAL = frozenset(
    {
        "CreateSessionRequest.thread_id",
        "CreateThreadAndRunRequest.run.thread_id",
        "GetUsageRequest.api_key_id",
        "ListMessagesRequest.run_id",
        "ListRunsRequest.thread_id",
        "ListRunsRequest.assistant_id",
        "ListSessionsRequest.thread_id",
    }
)
_REQUEST_ID = "request_id"
_REQUEST = "Request"


def check_required(request: Message) -> None:
    """Raise InvalidFields for each id that the contract requires and the request leaves out."""
    missing = [path for path in required_ids(request.DESCRIPTOR) if _lacks(request, path)]
    if missing:
        found = Violations()
        for path in missing:
            found.required(path)
        found.check()


def _lacks(request: Any, path: str) -> bool:
    *parents, name = path.split(".")
    for parent in parents:
        # What is left out as a whole is not told about its parts.
        if not request.HasField(parent):
            return False
        request = getattr(request, parent)
    return not getattr(request, name)


@cache
def required_ids(descriptor: Any) -> tuple[str, ...]:
    """The paths of the ids that a request must have, those of requests within it included."""
    return tuple(path for path in _ids_in(descriptor) if f"{descriptor.name}.{path}" not in _OPTIONAL)


def _ids_in(descriptor: Any) -> Iterator[str]:
    for field in descriptor.fields:
        if field.is_repeated:
            continue
        if field.message_type is None:
            if field.name.endswith(_SUFFIX) and field.name != _REQUEST_ID:
                yield field.name
        elif field.message_type.name.endswith(_REQUEST):
            yield from (f"{field.name}.{path}" for path in required_ids(field.message_type))
