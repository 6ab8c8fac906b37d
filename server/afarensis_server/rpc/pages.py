"""Lists: the page that a request asks for, and responses that stay small enough for every client."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from afarensis import v1 as pb

from ..store.pages import MAX_PAGE_SIZE, Page, PageRequest
from ..validation import Reason, Violations

T = TypeVar("T")
M = TypeVar("M", bound=Message)

#: Bytes that a list may have: with room to spare below the 4 MiB that gRPC clients accept by default.
RESPONSE_BYTES = 3 * 1024 * 1024

_DESCENDING = {
    pb.SORT_ORDER_UNSPECIFIED: True,
    pb.SORT_ORDER_ASCENDING: False,
    pb.SORT_ORDER_DESCENDING: True,
}


class ListRequest(Protocol):
    """What the requests of all lists have in common."""

    page_size: int
    page_token: str
    order: pb.SortOrder.ValueType


async def list_page(
    request: ListRequest, fetch: Callable[[PageRequest], Awaitable[Page[T]]], message: Callable[[T], M]
) -> tuple[list[M], str]:
    """The messages of a page and the token of the next one.

    A page whose messages would be too large together is fetched again with fewer, down to one.
    """
    wanted = page_request(request)
    while True:
        page = await fetch(wanted)
        messages = [message(item) for item in page.items]
        if len(messages) <= 1 or sum(item.ByteSize() for item in messages) <= RESPONSE_BYTES:
            return messages, page.next_token
        wanted = replace(wanted, size=len(messages) // 2)


def page_request(request: ListRequest) -> PageRequest:
    found = Violations()
    check_page_size(request.page_size, MAX_PAGE_SIZE, found)
    if request.order not in _DESCENDING:
        found.add("order", Reason.INVALID_VALUE, f"Invalid 'order': {request.order} is not a value of this enum.")
    found.check()
    return PageRequest(request.page_size, request.page_token, _DESCENDING[request.order])


def check_page_size(size: int, maximum: int, found: Violations) -> None:
    """0 stands for the default."""
    found.number("page_size", size, minimum=0 if size == 0 else 1, maximum=maximum)
