"""The last response of a stream, which goes to its client together with the status.

Sent one after the other, each of the two waits for gRPC's threads, and so does the client for both. `grpc.aio` puts
them together for calls with one response, so that is what it takes the streams here for (`interceptor`): on the wire, a
call with one response is a stream of one.
"""

from dataclasses import dataclass
from typing import TypeVar, cast

from google.protobuf.message import Message

from .serialized import Serialized

M = TypeVar("M", bound=Message)

#: The streams that end with a response that says so, or with an error. Their servicers mark it as `last`.
ENDING_STREAMS = frozenset(
    {
        "/afarensis.v1.RunService/CreateRunStream",
        "/afarensis.v1.RunService/StreamRunEvents",
        "/afarensis.v1.SessionService/Execute",
        "/afarensis.v1.SessionService/StreamExecutionEvents",
    }
)


@dataclass(frozen=True, slots=True)
class Last:
    """A response that none follows."""

    response: Message | Serialized


def last(response: M, is_last: bool = True) -> M:
    """The response, to be given by a servicer, marked if none follows it."""
    return cast(M, Last(response)) if is_last else response
