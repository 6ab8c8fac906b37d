from collections.abc import Iterator

import pytest

from afarensis_server.runs.models.answers import BrokenAnswer, joined
from afarensis_server.runs.models.protocol import Finish, FinishReason, ModelEvent, TextDelta, ToolCallDelta
from afarensis_server.runs.models.server_sent import ServerSentEvent, ServerSentEvents, parse_all

STREAM = (
    ": a comment\n\nevent: ping\ndata: {}\n\n\n\ndata: größer\ndata:second line\nid: 7\nretry: 5\n\n"
    # Without the empty line behind it.
    "nonsense\n\ndata: [DONE]"
)
EVENTS = [
    ServerSentEvent(b"ping", b"{}"),
    ServerSentEvent(b"", "größer\nsecond line".encode()),
    ServerSentEvent(b"", b"[DONE]"),
]


class Body:
    """A response's, in pieces as given."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def read(self) -> bytes:
        return next(self._pieces, b"")


async def read(pieces: list[bytes]) -> list[ServerSentEvent]:
    events = ServerSentEvents(Body(pieces))
    found: list[ServerSentEvent] = []
    while (more := await events.read()) is not None:
        found += more
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_events_are_the_same_wherever_the_stream_is_cut(end: str) -> None:
    stream = STREAM.replace("\n", end).encode()
    assert await read([stream]) == EVENTS
    assert await read([bytes([byte]) for byte in stream]) == EVENTS
    for cut in range(1, len(stream)):
        assert await read([stream[:cut], stream[cut:]]) == EVENTS, cut


def test_events_that_are_json_only_together_are_refused() -> None:
    assert list(parse_all([b'{"a": 1}', b"2"])) == [{"a": 1}, 2]
    for data in ([b"[1", b"2]"], [b"1,2", b"3"], [b"", b"1"], [b"1", b"\xff"]):
        with pytest.raises(ValueError):  # noqa: PT011  the parser's own
            list(parse_all(data))


def test_events_before_one_that_is_not_json_are_read() -> None:
    parsed = parse_all([b"1", b"2", b"{"])
    assert [next(parsed), next(parsed)] == [1, 2]
    with pytest.raises(ValueError, match="Expecting"):
        next(parsed)


async def test_events_that_came_together_are_read_together() -> None:
    events = ServerSentEvents(Body([b"data: 1\n\ndata: 2\n\nda", b"ta: 3\n\n"]))
    assert [event.data for event in await events.read() or ()] == [b"1", b"2"]
    assert [event.data for event in await events.read() or ()] == [b"3"]
    assert await events.read() is None


def test_pieces_are_joined_with_those_that_go_on() -> None:
    pieces: list[ModelEvent] = [
        TextDelta("a"),
        TextDelta("b"),
        ToolCallDelta(0, "call_1", "f", ""),
        ToolCallDelta(0, arguments_json="1"),
        ToolCallDelta(0, arguments_json="2"),
        ToolCallDelta(1, arguments_json="3"),
        Finish(FinishReason.TOOL_CALLS),
    ]
    assert list(joined(pieces)) == [
        TextDelta("ab"),
        ToolCallDelta(0, "call_1", "f", ""),
        ToolCallDelta(0, arguments_json="12"),
        ToolCallDelta(1, arguments_json="3"),
        Finish(FinishReason.TOOL_CALLS),
    ]


def test_joined_pieces_stay_short() -> None:
    lengths = [len(piece.text) for piece in joined([TextDelta("x" * 200)] * 10) if isinstance(piece, TextDelta)]
    assert lengths == [400] * 5


def test_what_came_before_a_broken_piece_is_told() -> None:
    def pieces() -> Iterator[ModelEvent]:
        yield TextDelta("a")
        yield TextDelta("b")
        raise BrokenAnswer("broke")

    found = joined(pieces())
    assert next(found) == TextDelta("ab")
    with pytest.raises(BrokenAnswer):
        next(found)
