"""sys.stdout and sys.stderr of the user's code: as fast as plain Python's, but aware of each other.

The text layer and the buffer are CPython's own. Two flags are all that Python code looks at for each write, and in a
flood not even that, so that a program which prints millions of lines is not slowed down.
"""

import io
import threading
from typing import Protocol, cast

#: Writes in a row of which none changed anything, after which the next ones go to CPython's own method. Code that keeps
#: that method and calls it after something has changed is shown when the buffer is full, or at the end of the cell.
FLOOD = 100
#: Bytes that gather before they are written to the pipe.
BUFFER_SIZE = 64 * 1024

_text_write = io.TextIOWrapper.write


class Order(Protocol):
    """What a stream tells the keeper of the order between the channels."""

    def switch_to(self, stream: "OutputStream") -> None:
        """The stream is about to write, and another channel was the last one."""

    def written(self) -> None:
        """A stream has something to flush, for the first time since it was flushed."""


class OutputBuffer(io.BufferedWriter):
    """The bytes below a stream. User code cannot close it: the next cell needs it."""

    stream: "OutputStream | None" = None
    #: The thread that flushes: what its text layer hands down was announced when it was written.
    flushed_by = 0

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # any buffer will do
        stream = self.stream
        if stream is None or self.flushed_by == threading.get_ident():
            return super().write(data)
        if stream.behind:
            if stream.heir is not None:
                return stream.heir.output.write(data)
            stream.switch()
        count = super().write(data)
        if stream.quiet:
            stream.announce()
        return count

    def close(self) -> None:
        if not self.closed:
            self.flush()


class OutputStream(io.TextIOWrapper):
    """A text stream to one of the output pipes."""

    def __init__(
        self,
        descriptor: int,
        name: str,
        order: Order,
        *,
        encoding: str = "utf-8",
        errors: str = "backslashreplace",
        line_buffering: bool = False,
    ) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        self.output = OutputBuffer(raw, BUFFER_SIZE)
        super().__init__(
            cast("io.BufferedWriter", self.output), encoding=encoding, errors=errors, line_buffering=line_buffering
        )
        self._descriptor = descriptor
        self._name = name
        self._order = order
        #: Writes in this one's stead, which is behind for ever then.
        self.heir: OutputStream | None = None
        #: Another channel was written to since this one.
        self.behind = True
        #: Nothing was written since the last flush.
        self.quiet = True
        #: Writes since one of the two was last true.
        self._row = 0
        self._plain_write = _text_write.__get__(self)
        self.output.stream = self

    @property
    def name(self) -> str:
        return self._name

    @property
    def mode(self) -> str:
        return "w"

    def write(self, text: str, /) -> int:
        if self.behind:
            if self.heir is not None:
                return self.heir.write(text)
            self.switch()
        count = _text_write(self, text)
        if self.quiet:
            self.announce()
        self._row += 1
        if self._row == FLOOD:
            self.__dict__.setdefault("write", self._plain_write)
        return count

    def fall_behind(self) -> None:
        """Another channel is written to."""
        self.behind = True
        self._look_again()

    def flush_all(self) -> None:
        """Flush what was written, of both layers; it is quiet then."""
        self.quiet = True
        self._look_again()
        self.output.flushed_by = threading.get_ident()
        try:
            self.flush()
        finally:
            self.output.flushed_by = 0

    def make_heir(self) -> "OutputStream":
        """A fresh stream to the same pipe, which gets what is written to this one from now on, and each line at once.

        For a forked child: a thread that is not there may hold this one's locks, and for ever. What lies in this one's
        buffers is its parent's, who writes it.
        """
        try:
            encoding, errors = self.encoding, self.errors or "strict"
            heir = OutputStream(
                self._descriptor, self._name, self._order, encoding=encoding, errors=errors, line_buffering=True
            )
        except (AttributeError, LookupError, ValueError):  # user code took this one apart
            heir = OutputStream(self._descriptor, self._name, self._order, line_buffering=True)
        self.heir = heir
        self.fall_behind()
        # Written to or not, code that has this one may flush it.
        self.__dict__["flush"] = heir.flush
        self.output.__dict__["flush"] = heir.buffer.flush
        return heir

    def is_broken(self) -> bool:
        """User code took the stream apart, on purpose or not."""
        try:
            return self.closed or self.output.stream is not self
        except (AttributeError, ValueError):
            return True

    def restore(self) -> None:
        """Undo ``reconfigure``."""
        if self.encoding != "utf-8" or self.errors != "backslashreplace" or self.line_buffering or self.write_through:
            self.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=False, write_through=False)

    def _look_again(self) -> None:
        self._row = 0
        # Code may have put a method of its own there, or have taken everything away.
        mine = self.__dict__
        if "write" in mine and mine["write"] is mine.get("_plain_write"):
            del mine["write"]

    def switch(self) -> None:
        self._order.switch_to(self)

    def announce(self) -> None:
        self.quiet = False
        self._order.written()

    def close(self) -> None:
        """Only flush: the next cell prints here too."""
        self.flush()

    def detach(self) -> OutputBuffer:
        """The bytes layer, without giving it away: wrapping it anew is how scripts change the encoding."""
        self.flush()
        return self.output
