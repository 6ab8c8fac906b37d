"""Refuses requests that leave out the id of what they are about.

A request names an object in a field `..._id`. Without this, an empty one would be looked up, and found to be nothing.
Other required fields are checked with their other limits, where all that is wrong with them is collected.
"""

from collections.abc import Iterator
from functools import cache
from operator import attrgetter
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
    found = Violations()
    for path, choice in required_ids(request.DESCRIPTOR):
        # Of a choice, only what was chosen has to be complete.
        if (not choice or request.HasField(choice)) and not attrgetter(path)(request):
            found.required(path)
    found.check()


@cache
def required_ids(descriptor: Any) -> tuple[tuple[str, str], ...]:
    """The ids that a request must have: their paths, and the choice (`oneof`) that each belongs to or nothing."""
    return tuple((path, choice) for path, choice in _ids_in(descriptor) if f"{descriptor.name}.{path}" not in _OPTIONAL)


def _ids_in(descriptor: Any) -> Iterator[tuple[str, str]]:
    for field in descriptor.fields:
        if field.is_repeated:
            continue
        if field.message_type is None:
            if field.name.endswith(_SUFFIX) and field.name != _REQUEST_ID:
                yield field.name, ""
        elif field.message_type.name.endswith(_REQUEST):
            for path, _ in required_ids(field.message_type):
                yield f"{field.name}.{path}", field.name if field.containing_oneof else ""
