"""Lists: which part of one a query asks for, and the envelope it comes in."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..ids import Prefix, is_id
from ..store.pages import Listed, Page, PageRequest
from ..validation import Reason, echo
from .convert.values import Json
from .endpoint import Call
from .errors import Found

T = TypeVar("T", bound=Listed)

_ORDERS = {None: True, "": True, "desc": True, "asc": False}


def size_and_order(call: Call, maximum: int, default: int) -> tuple[int, bool]:
    """How many items the query asks for, and whether it wants the last ones first. Raises Refused."""
    found = Found()
    given = call.query("limit")
    size = default
    if given:
        if given.isascii() and given.isdigit() and len(given) < 10:
            size = int(given)
            found.number("limit", size, minimum=1, maximum=maximum)
        else:
            text = f"Invalid type for 'limit': expected an integer, but got '{echo(given)}' instead."
            found.add("limit", Reason.INVALID_TYPE, text)
    order = call.query("order")
    if order not in _ORDERS:
        found.unsupported("order", order or "", ("asc", "desc"))
    found.check()
    return size, _ORDERS[order]


def page_request(call: Call, prefix: Prefix, maximum: int = 100, default: int = 20) -> PageRequest:
    """The page that the query asks for: ``limit``, ``order``, and ids as ``after`` and ``before``.

    These have to begin with ``prefix``. They are places in the list, whatever became of their objects: clients delete
    what they walk through. Raises Refused.
    """
    size, is_descending = size_and_order(call, maximum, default)
    found = Found()
    positions = {name: call.query(name) or "" for name in ("after", "before")}
    for name, given in positions.items():
        if given and not is_id(given, prefix):
            refuse_position(found, name, given, prefix)
    found.check()
    return PageRequest(size, descending=is_descending, **positions)


def refuse_position(found: Found, name: str, given: str, prefix: str) -> None:
    """Note that what stands for a place in a list is no id of what is listed."""
    text = f"Invalid '{name}': '{echo(given)}'. Expected an ID of this list, which begins with '{prefix}'."
    found.add(name, Reason.INVALID_VALUE, text)


def list_json(items: Sequence[Json], *, has_more: bool) -> Json:
    """An empty list has no first and no last."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def page_json(page: Page[T], written: Callable[[T], Json]) -> Json:
    return list_json([written(item) for item in page.items], has_more=bool(page.next_token))
