"""Server-sent events, read a piece at a time: all that the connection holds, however many events that is.

The SDKs read one event after another, each by some five coroutines, which is most of
what a streamed token takes when many answers come in at once.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol


class ServerSentEvent(NamedTuple):
    """One event: its type, empty when it has none, and its data."""

    type: bytes
    data: bytes


class Pieces(Protocol):
    """The body of a response."""

    async def read(self) -> bytes:
        """All that came since the last time; waits for something to come. Empty at the end."""
        ...


class ServerSentEvents:
    """The events of one response, as the WHATWG defines event streams; ids and ``retry`` are of no use here."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._decoder = _Decoder()

    async def read(self) -> list[ServerSentEvent] | None:
        """The events that the next piece completes, which may be none; None at the end. Raises what reading raises."""
        if piece := await self._pieces.read():
            return self._decoder.feed(piece)
        # The last event may lack its empty line.
        return self._decoder.feed(b"\n\n") or None


def parse(data: bytes) -> object:
    """The JSON of an event. Raises ValueError."""
    # Not by a parser that lets go of the GIL meanwhile: getting it back takes longer than the parsing.
    value: object = json.loads(data.decode())
    return value


def parse_all(data: Sequence[bytes]) -> Iterator[object]:
    """The JSON of several events. Raises ValueError at the first that is none."""
    values = _parsed_together(data) if len(data) > 1 else None
    yield from map(parse, data) if values is None else values


def _parsed_together(data: Sequence[bytes]) -> list[object] | None:
    """The same in one go, which takes half the time; None where they are not as many values as events."""
    with suppress(ValueError):
        values = parse(b"[" + b",".join(data) + b"]")
        if isinstance(values, list) and len(values) == len(data):
            return values
    return None


class _Decoder:
    def __init__(self) -> None:
        #: The beginning of a line, in pieces, so that a long one is not copied again and again.
        self._begun: list[bytes] = []
        self._ends_in_return = False
        self._type = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """The events that this piece completes."""
        events = []
        for line in self._lines(piece):
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line:
                if self._data or self._type:
                    events.append(ServerSentEvent(self._type, b"\n".join(self._data)))
                    self._type, self._data = b"", []
            elif line.startswith(b"event:"):
                self._type = line[6:].removeprefix(b" ")
        return events

    def _lines(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes. They end in LF, CR LF or CR."""
        if self._ends_in_return and piece.startswith(b"\n"):
            piece = piece[1:]
            self._ends_in_return = False
        if b"\r" in piece:
            self._ends_in_return = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif piece:
            self._ends_in_return = False
        *lines, rest = piece.split(b"\n")
        if lines and self._begun:
            lines[0] = b"".join([*self._begun, lines[0]])
            self._begun.clear()
        if rest:
            self._begun.append(rest)
        return lines
