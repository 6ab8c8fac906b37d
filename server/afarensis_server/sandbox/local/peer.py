"""The server's end of its conversations with the supervisor and the zygotes."""

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..driver import SandboxUnavailable
from ..zygote.messages import PeerGoneError, receive, send


class Peer:
    """Numbered requests over one packet socket, and events that come by themselves.

    ``on_end`` is called once, when the other side is gone or does not keep to the format. An answer that takes longer
    than ``answer_seconds`` is a failure, so that a process that hangs holds up nobody.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_event: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
        answer_seconds: float,
    ) -> None:
        self._answer_seconds = answer_seconds
        self._connection = connection
        self._on_event = on_event
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[list[int]]] = {}
        self._sending = asyncio.Lock()
        self._closed = False
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    async def request(self, operation: str, descriptors: Sequence[int] = (), **arguments: object) -> list[int]:
        """Ask for something; the descriptors of the answer are the caller's to close."""
        if self._closed:
            raise SandboxUnavailable(f"the process behind {operation} has ended")
        number = next(self._numbers)
        answer = self._loop.create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._send({"request": number, "op": operation, **arguments}, descriptors)
                return await asyncio.shield(answer)
        except (asyncio.CancelledError, TimeoutError) as error:
            # The answer may still come, with descriptors that somebody must close.
            answer.add_done_callback(_discard)
            if isinstance(error, TimeoutError):
                message = f"the process behind {operation} did not answer within {self._answer_seconds:g} s"
                raise SandboxUnavailable(message) from error
            raise

    def close(self) -> None:
        """Hang up; the other side takes it as its end."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._connection)
        self._connection.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SandboxUnavailable("the process that was asked has ended"))
        self._waiting.clear()

    async def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        async with self._sending:
            while True:
                try:
                    return send(self._connection, message, descriptors)
                except BlockingIOError:
                    await _writable(self._connection)
                except OSError as error:
                    self._waiting.pop(message["request"], None)
                    if error.errno == errno.ETOOMANYREFS:
                        # Of processes of the same user, which sessions may be: see settings.open_files.
                        reason = "too many descriptors are on their way between processes of this user"
                        raise SandboxUnavailable(f"{message['op']} cannot be asked for: {reason}") from error
                    raise SandboxUnavailable(f"the process behind {message['op']} has ended") from error

    def _read(self) -> None:
        try:
            while True:
                message, descriptors = receive(self._connection)
                self._take(message, descriptors)
        except BlockingIOError:
            return
        except (PeerGoneError, OSError, ValueError, KeyError, TypeError):
            self.close()
            self._on_end()

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        answer = self._waiting.pop(message["reply"])
        if message["error"] is None:
            answer.set_result(descriptors)
        else:
            answer.set_exception(SandboxUnavailable(message["error"]))


def _discard(answer: asyncio.Future[list[int]]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        for descriptor in answer.result():
            os.close(descriptor)


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(connection, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
