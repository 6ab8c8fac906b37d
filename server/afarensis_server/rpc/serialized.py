"""Responses that were serialized before: an event that many readers get is made into bytes once.

Readers of one log share its newest events (`events.tail`), the same objects. What a servicer yields as `Serialized`
goes to the client as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from google.protobuf.message import Message

E = TypeVar("E")
M = TypeVar("M", bound=Message)

#: Bytes of serialized responses that are remembered, and responses.
_MOST_BYTES = 8 * 1024 * 1024
_MOST_ENTRIES = 4_096


@dataclass(frozen=True, slots=True)
class Serialized:
    """A response as it goes to the client."""

    data: bytes


class SerializedEvents(Generic[E, M]):
    """The newest responses of one kind, by the event in them."""

    def __init__(self, respond: Callable[[E], M]) -> None:
        self._respond = respond
        #: In the order in which they came. An event that is in here keeps its address to itself.
        self._known: dict[int, tuple[E, Serialized]] = {}
        self._size = 0

    def response(self, event: E) -> M:
        """The response with an event, to be yielded and nothing else."""
        known = self._known.get(id(event))
        if known is None:
            known = self._known[id(event)] = (event, Serialized(self._respond(event).SerializeToString()))
            self._size += len(known[1].data)
            while self._size > _MOST_BYTES or len(self._known) > _MOST_ENTRIES:
                self._size -= len(self._known.pop(next(iter(self._known)))[1].data)
        return cast(M, known[1])


def serializer(serialize: Callable[[Message], bytes]) -> Callable[[Message | Serialized], bytes]:
    """A serializer of responses that lets those pass that are serialized."""
    return lambda response: response.data if isinstance(response, Serialized) else serialize(response)
