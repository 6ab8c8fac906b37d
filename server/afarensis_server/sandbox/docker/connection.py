"""The server's end of the stream to an agent: one reader, one writer, and any number of requests between them.

**The agent is not believed**: it shares its container with user code. What it sends is capped before it is stored,
belongs to a request that is under way, and is checked by whoever asked; and one that breaks the rules is hung up on.
"""

import asyncio
import itertools
import socket
import struct
from collections import deque
from typing import Any

from ..agent.wire import PROTOCOL
from ..driver import SandboxUnavailable
from ..guest.frames import PREFIX, FrameBuffer, FrameError, encode
from ..guest.limits import MAX_BODY, MAX_HEADER

#: Of each piece of the engine's stream: which of the container's streams it is of, and how long it is.
_PIECE = struct.Struct(">BxxxI")
_STDOUT, _STDERR = 1, 2
_READ_SIZE = 256 * 1024
#: Bytes of the agent's complaints that are kept.
_WORDS = 4096
#: Bytes of the parts of a frame of the agent: the body may be one of the guest's.
_MAX_HEADER = 1024 * 1024
_MAX_BODY = PREFIX.size + MAX_HEADER + MAX_BODY
#: Bytes of an answer that may wait to be taken, on top of what was granted.
_SLACK = 2 * _MAX_BODY
#: Bytes of lists in one answer: as many paths as a disk with a million inodes may have.
_MAX_LISTS = 256 * 1024 * 1024
_BACKLOG = 1024 * 1024

Frame = tuple[dict[str, Any], bytes]


class ConnectionLost(Exception):
    """There is no agent any more; the message says why."""


class Call:
    """One request and what comes back."""

    def __init__(self, connection: "Connection", number: int, window: int) -> None:
        self._connection = connection
        self.number = number
        #: Bytes that the agent may still send.
        self.granted = window
        self._window = window
        self._taken = 0
        self._lists = 0
        self._frames: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        #: The reply is there, taken or not.
        self.is_answered = False

    def send(self, kind: str, body: bytes = b"", **fields: Any) -> None:
        """Send one more frame that belongs to the request."""
        self._connection.send({"type": kind, "id": self.number, **fields}, body)

    def take_now(self) -> Frame | None:
        """The next frame, if it is there. Raises ConnectionLost."""
        if not self._frames:
            if self._connection.lost is not None:
                raise ConnectionLost(self._connection.lost)
            return None
        header, body = self._frames.popleft()
        self._taken += len(body)
        # In parts: a frame for each crumb would cost more than the crumb.
        if self._taken >= self._window // 4 and not self.is_answered:
            self.granted += self._taken
            self.send("credit", bytes=self._taken)
            self._taken = 0
        return header, body

    async def wait(self, seconds: float | None) -> None:
        """Wait until there is a frame, or no agent any more, or the time is over."""
        if self._frames or self._connection.lost is not None:
            # Others have their turn first: whoever waits here in a loop may never have to wait.
            await asyncio.sleep(0)
            return
        self._arrived.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def next(self) -> Frame:
        """The next frame. Raises ConnectionLost."""
        while (frame := self.take_now()) is None:
            await self.wait(None)
        return frame

    def arrive(self, header: dict[str, Any], body: bytes) -> None:
        """Take in what the agent sent. Raises FrameError."""
        if self.is_answered:
            raise FrameError("a frame behind the answer")
        kind = header["type"]
        if kind in ("output", "guest", "data"):
            self.granted -= len(body)
            if self.granted < -_SLACK:
                raise FrameError("more than was asked for")
        elif body:
            raise FrameError("a frame with a body that has none")
        elif kind in ("changes", "files"):
            self._lists += len(header[kind]) if isinstance(header.get(kind), list) else 1
            if self._lists > _MAX_LISTS // 1024:
                raise FrameError("a list without an end")
        elif kind == "reply":
            self.is_answered = True
        else:
            raise FrameError("a frame of an unknown type")
        self._frames.append((header, body))
        self.wake()

    def wake(self) -> None:
        """There is news."""
        self._arrived.set()

    def close(self) -> None:
        """Take no more of it."""
        self._connection.forget(self)


class Connection:
    """Owns the socket, and two tasks until ``close``."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._frames = FrameBuffer(_MAX_HEADER, _MAX_BODY)
        self._pieces = bytearray()
        self._words = bytearray()
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        #: Answers that nobody waits for any more; they may still come.
        self._forgotten: set[int] = set()
        self._outgoing: deque[bytes] = deque()
        self._backlog = 0
        self._written = asyncio.Event()
        self._wanted = asyncio.Event()
        #: Why there is no agent any more; None while there is one.
        self.lost: str | None = None
        #: Done when there is none.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._tasks = [
            asyncio.create_task(self._read(), name="sandbox-agent-read"),
            asyncio.create_task(self._write(), name="sandbox-agent-write"),
        ]

    async def hello(self, seconds: float) -> dict[str, Any]:
        """Wait for the agent's first word. Raises SandboxUnavailable."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._hello)
        except TimeoutError as error:
            raise SandboxUnavailable(f"a container said nothing within {seconds:g} s{self._said()}") from error
        except ConnectionLost as error:
            raise SandboxUnavailable(f"a container ended while it started{self._said()}") from error

    def call(self, kind: str, body: bytes = b"", *, window: int = 0, **fields: Any) -> Call:
        """Begin a request."""
        call = Call(self, next(self._numbers), window)
        if self.lost is None:
            self._calls[call.number] = call
            credit = {"credit": window} if window else {}
            self.send({"type": kind, "id": call.number, **credit, **fields}, body)
        return call

    async def ask(self, kind: str, seconds: float, body: bytes = b"", **fields: Any) -> dict[str, Any]:
        """Ask for something that is answered at once. Raises ConnectionLost; OSError for what the agent says no to."""
        call = self.call(kind, body, **fields)
        try:
            async with asyncio.timeout(seconds):
                header, _ = await call.next()
        except TimeoutError:
            self.give_up(f"its agent did not answer within {seconds:g} s")
            raise ConnectionLost(self.lost) from None
        finally:
            call.close()
        return checked(header)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Have a frame sent."""
        if self.lost is None:
            data = encode(header, body)
            self._outgoing.append(data)
            self._backlog += len(data)
            self._wanted.set()

    async def drained(self) -> None:
        """Wait until little is left to send."""
        while self._backlog > _BACKLOG and self.lost is None:
            self._written.clear()
            await self._written.wait()

    def forget(self, call: Call) -> None:
        """Nobody waits for an answer any more."""
        if self._calls.pop(call.number, None) is not None and not call.is_answered:
            self._forgotten.add(call.number)

    def give_up(self, why: str) -> None:
        """Hang up. The agent takes it as its end."""
        if self.lost is not None:
            return
        self.lost = why
        for call in self._calls.values():
            call.wake()
        self._written.set()
        if not self._hello.done():
            self._hello.set_exception(ConnectionLost(why))
            self._hello.exception()  # whoever waits for it is told
        if not self.ended.done():
            self.ended.set_result(None)
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Hang up, and end the tasks. May be repeated."""
        self.give_up("the session is closed")
        await asyncio.wait(self._tasks)
        self._socket.close()

    def _said(self) -> str:
        words = bytes(self._words).decode(errors="replace").strip()
        return f": {words.splitlines()[-1]}" if words else ""

    async def _read(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._socket, _READ_SIZE):
                self._cut(data)
            self.give_up("its stream ended")
        except (FrameError, KeyError, TypeError) as error:
            self.give_up(f"its agent broke the protocol ({error})")
        except OSError as error:
            self.give_up(f"its stream broke ({error})")

    async def _write(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._outgoing:
                    data = self._outgoing.popleft()
                    await self._loop.sock_sendall(self._socket, data)
                    self._backlog -= len(data)
                    self._written.set()
        except OSError as error:
            self.give_up(f"its stream broke ({error})")

    def _cut(self, data: bytes) -> None:
        """Cut the engine's pieces out of the stream."""
        self._pieces += data
        start = 0
        while len(self._pieces) - start >= _PIECE.size:
            stream, length = _PIECE.unpack_from(self._pieces, start)
            if stream not in (0, _STDOUT, _STDERR) or length > _MAX_BODY:
                raise FrameError("the engine's stream is not one")
            end = start + _PIECE.size + length
            if len(self._pieces) < end:
                break
            piece = bytes(self._pieces[start + _PIECE.size : end])
            start = end
            if stream == _STDERR:
                self._words += piece
                del self._words[:-_WORDS]
            else:
                for header, body in self._frames.feed(piece):
                    self._dispatch(header, body)
        del self._pieces[:start]

    def _dispatch(self, header: dict[str, Any], body: bytes) -> None:
        number = header.get("id")
        if type(number) is not int:
            raise FrameError("a frame without an id")
        if header["type"] == "hello":
            if self._hello.done():
                raise FrameError("a second hello")
            self._hello.set_result(header)
        elif (call := self._calls.get(number)) is not None:
            call.arrive(header, body)
        elif number not in self._forgotten:
            raise FrameError("a frame that belongs to no request")
        elif header["type"] == "reply":
            self._forgotten.discard(number)


def check_hello(hello: dict[str, Any], digest: str, command: str) -> None:
    """Refuse an agent of another version. Raises SandboxUnavailable."""
    if hello.get("protocol") != PROTOCOL or hello.get("digest") != digest:
        raise SandboxUnavailable(
            f"the sandbox's image was made for another version of the server; build it anew with `{command}`"
        )


def checked(header: dict[str, Any]) -> dict[str, Any]:
    """A reply that says yes. Raises OSError for what the agent says no to, and ConnectionLost for what is no reply."""
    error = header.get("error")
    if header["type"] != "reply":
        raise ConnectionLost("its agent answered with something else")
    if error is None:
        return header
    code = error.get("errno") if isinstance(error, dict) else None
    message = str(error.get("message") if isinstance(error, dict) else error)[:2000]
    if type(code) is not int or not 0 < code < 4096:
        raise AgentError(message)
    raise OSError(code, message)


class AgentError(Exception):
    """The agent could not do what it was asked for; the message says why."""
