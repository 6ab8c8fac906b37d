"""Connections on which no request arrives: what is no HTTP is refused in the API's shape, and none waits for ever."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from http import HTTPStatus

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import Failure

_log = structlog.get_logger(__name__)

#: Characters of what the parser says: it may quote what was sent.
_MOST_CHARACTERS = 200


class Protocol(H11Protocol):
    """A connection. ``head_seconds`` is how long its client may take until the head of a request is there."""

    head_seconds: float
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base has it
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_answering = self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY)
        # Between two requests uvicorn waits by itself, but no longer once anything has come.
        if is_answering or self.timeout_keep_alive_task is not None or self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        if not is_answering and self.timeout_keep_alive_task is None:
            # For a head, from its first byte; for the rest of a body that nobody wants, as long as it moves.
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. What is wrong with it is in the exception that is being handled."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError):
            text = f"Invalid HTTP request: {str(error)[:_MOST_CHARACTERS]}."
            self._refuse(Failure(error.error_status_hint, text, code="invalid_http"))
        else:
            self._refuse(Failure(400, msg, code="invalid_http"))

    def _wait(self) -> None:
        """Have the client's time run, if it does not."""
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            text = f"The head of the request did not come within {self.head_seconds:g} seconds."
            self._refuse(Failure(408, text, code="request_timeout"))
        else:
            # Nobody asked for anything.
            self.transport.close()

    def _refuse(self, failure: Failure) -> None:
        """Answer, and close."""
        request_id = f"req_{os.urandom(16).hex()}"
        headers = [
            (b"content-type", b"application/json"),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
        ]
        reason = HTTPStatus(failure.status).phrase.encode()
        head = h11.Response(status_code=failure.status, headers=headers, reason=reason)
        body = h11.Data(data=json.dumps(failure.envelope).encode())
        # Where an answer has begun, there is no room for another one.
        with suppress(h11.LocalProtocolError):
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in (head, body, h11.EndOfMessage())))
        self.transport.close()
        if self.cycle is not None:
            # Whoever works on the request that broke off has nobody to answer.
            self.cycle.disconnected = True
        _log.info("http", request_id=request_id, status=failure.status, problem=failure.message)


def protocol(seconds: float) -> type[Protocol]:
    """The class for connections whose clients have so long for a head; uvicorn makes its objects by itself."""

    class Timed(Protocol):
        head_seconds = seconds

    return Timed
