"""Responses that were serialized before: what is sent again and again is made into bytes once.

Readers of one log share its newest events (`events.tail`), the same objects; a row that is read again and has not
changed is the same object, too (`store.prepared`). What a servicer gives as `Serialized` goes to the client as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from google.protobuf.message import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)

#: Bytes of serialized responses that are remembered, and responses.
_MOST_BYTES = 8 * 1024 * 1024
_MOST_ENTRIES = 4_096


@dataclass(frozen=True, slots=True)
class Serialized:
    """A response as it goes to the client."""

    data: bytes


class SerializedResponses(Generic[T, M]):
    """The newest responses of one kind, by the object that is in them."""

    def __init__(self, respond: Callable[[T], M]) -> None:
        self._respond = respond
        #: In the order in which they came. What is in here keeps its address to itself.
        self._known: dict[int, tuple[T, Serialized]] = {}
        self._size = 0

    def response(self, content: T) -> M:
        """The response with this in it, to be sent and nothing else."""
        known = self._known.get(id(content))
        if known is None:
            known = self._known[id(content)] = (content, Serialized(self._respond(content).SerializeToString()))
            self._size += len(known[1].data)
            while self._size > _MOST_BYTES or len(self._known) > _MOST_ENTRIES:
                self._size -= len(self._known.pop(next(iter(self._known)))[1].data)
        return cast(M, known[1])


def serializer(serialize: Callable[[Message], bytes]) -> Callable[[Message | Serialized], bytes]:
    """A serializer of responses that lets those pass that are serialized."""
    return lambda response: response.data if isinstance(response, Serialized) else serialize(response)
