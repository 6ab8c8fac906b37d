"""From the bytes of two pipes to the text that one execution shows."""

import codecs
from collections.abc import Iterator

from ..driver import Output, OutputStream

#: Bytes of text in one event.
MAX_TEXT = 64 * 1024
#: Seconds that text may wait for more to come. The first after a quiet time does not wait at all.
COALESCE_SECONDS = 0.025
#: Changes from one stream to the other that are shown as they happened. After that many, each stream's text waits for
#: its time by itself: else every byte could be an event of its own.
MAX_TURNS = 2_000

#: In this order their ends are shown. To ask the enumeration takes longer.
_STREAMS = tuple(OutputStream)

_Decoder = codecs.getincrementaldecoder("utf-8")


class Outputs:
    """Decodes, gathers and limits what is read. Not a step of it waits: the caller asks when it is time."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        #: Of each stream that something was read of.
        self._decoders: dict[OutputStream, codecs.IncrementalDecoder] = {}
        self._dropped: dict[OutputStream, int] = {}
        self._stream = OutputStream.STDOUT
        self._turns = 0
        self._texts: dict[OutputStream, list[str]] = {}
        self._size = 0
        self._flushed_at = float("-inf")

    @property
    def dropped_bytes(self) -> int:
        return sum(self._dropped.values())

    def due_in(self, now: float) -> float | None:
        """Seconds until what was gathered must be shown; None when there is nothing."""
        return max(0.0, self._flushed_at + COALESCE_SECONDS - now) if self._texts else None

    def feed(self, stream: OutputStream, data: memoryview, now: float) -> Iterator[Output]:
        """Take what was read; yields what is ready to be shown."""
        if stream is not self._stream:
            self._turns += 1
            if self._turns <= MAX_TURNS:
                yield from self.flush(now)
            self._stream = stream
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = _Decoder("replace")
        if len(data) > self._left:
            self._dropped[stream] = self._dropped.get(stream, 0) + len(data) - self._left
            data = data[: self._left]
        self._left -= len(data)
        for start in range(0, len(data), MAX_TEXT):
            for text in _pieces(decoder.decode(data[start : start + MAX_TEXT])):
                size = len(text) if text.isascii() else len(text.encode())
                if self._size + size > MAX_TEXT:
                    yield from self.flush(now)
                self._texts.setdefault(stream, []).append(text)
                self._size += size
        if self.due_in(now) == 0.0:
            yield from self.flush(now)

    def flush(self, now: float) -> Iterator[Output]:
        """Show what was gathered."""
        if self._texts:
            texts, self._texts = self._texts, {}
            self._size = 0
            self._flushed_at = now
            for stream, text in texts.items():
                yield Output(stream=stream, text="".join(text))

    def finish(self, now: float) -> Iterator[Output]:
        """Show all that is left, with cut-off characters as U+FFFD, and say what was left out."""
        yield from self.flush(now)
        for stream in _STREAMS:
            if (decoder := self._decoders.get(stream)) is not None:
                text, dropped = decoder.decode(b"", final=True), self._dropped.get(stream, 0)
                if text or dropped:
                    yield Output(stream=stream, text=text, dropped_bytes=dropped)


def _pieces(text: str) -> Iterator[str]:
    """The text in parts that take no more than MAX_TEXT: a character may take four bytes."""
    most = MAX_TEXT if text.isascii() else MAX_TEXT // 4
    for start in range(0, len(text), most):
        yield text[start : start + most]
