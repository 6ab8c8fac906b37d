"""What is around every call: its id, its limits, its answer when it fails, its line in the log."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..calls import Calls, Tracked
from ..domain.projects import DEFAULT_PROJECT
from ..errors import DomainError
from .convert.values import Shape
from .errors import Failure, Found, Refused, failure_of, internal_failure
from .fields import Fields, parse_object
from .guard import Guard
from .names import COMMON, Names

_log = structlog.get_logger(__name__)

_BETA = re.compile(r"assistants=(v\d+)")
_PLACE = re.compile(r"(run_\w{1,64}):(\d{1,15})", re.ASCII)
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one request may be."""

    #: Bytes of a JSON body.
    body_bytes: int = 8 * 1024 * 1024
    #: Arrays and objects within one another in a JSON body.
    json_depth: int = 64
    #: Bytes of a form beside the file that is in it.
    form_bytes: int = 1024 * 1024
    #: Seconds that a client may take to send a JSON body, and seconds without any byte of another one.
    body_seconds: float = 30.0


@dataclass(slots=True)
class Call:
    """One request, as a handler sees it."""

    request: Request
    limits: HttpLimits
    project: str = DEFAULT_PROJECT
    shape: Shape = Shape.V2
    #: What it is counted as.
    place: Tracked = field(init=False)
    _raw: bytes = field(default=b"", init=False)

    def path(self, name: str) -> str:
        """A part of the path."""
        value: str = self.request.path_params[name]
        return value

    def query(self, name: str) -> str | None:
        return self.request.query_params.get(name)

    @property
    def request_id(self) -> str:
        """What makes creating something again give the same thing; empty when the client does not ask for that."""
        return self.request.headers.get("idempotency-key", "")

    @property
    def last_event(self) -> tuple[str, int] | None:
        """The run and the sequence that a client says it has seen last, to go on behind it. Raises Refused."""
        given = self.request.headers.get("last-event-id", "")
        if not given:
            return None
        place = _PLACE.fullmatch(given)
        if place is None:
            text = f"Invalid 'Last-Event-ID': '{given[:100]}' is no id of an event of a run. Send the last one you saw."
            raise Refused(Failure(400, text, param="Last-Event-ID", code="invalid_value"))
        return place[1], int(place[2])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises Refused when nothing of it does for too long."""
        pieces = self.request.stream()
        while True:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise Refused(_too_slow(self.limits.body_seconds)) from error
            yield piece

    def becomes_stream(self) -> None:
        """Take the place of a stream. Raises ShuttingDown, TooManyCalls.

        Whoever answers with `Streamed` begins with it: what is refused has done nothing.
        """
        self.place.become("streams")

    @property
    def has_form(self) -> bool:
        return self.request.headers.get("content-type", "").lower().startswith("multipart/")

    async def receive(self) -> None:
        """Take in a body that is no form. Raises Refused."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in self.request.stream():
                    body += chunk
                    if len(body) > self.limits.body_bytes:
                        raise Refused(too_large(self.limits.body_bytes))
        except TimeoutError as error:
            raise Refused(_too_slow(self.limits.body_seconds)) from error
        self._raw = bytes(body)

    async def body(self) -> Fields:
        """The JSON object that was sent. Raises Refused."""
        kind = self.request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
        if kind != _JSON:
            raise Refused(
                Failure(
                    400,
                    f"Unsupported content type: '{kind[:100]}'. This API method only accepts '{_JSON}' requests, but "
                    f"you specified the header 'Content-Type: {kind[:100]}'. Please try again with a supported content "
                    "type.",
                    code="unsupported_content_type",
                )
            )
        try:
            return Fields(parse_object(self._raw, self.limits.json_depth), Found())
        except ValueError as error:
            raise Refused(Failure(400, str(error))) from error


def too_large(limit: int) -> Failure:
    return Failure(413, f"The request body is larger than the limit of {limit} bytes.", code="request_too_large")


def _too_slow(seconds: float) -> Failure:
    return Failure(408, f"The body of the request did not come within {seconds:g} seconds.", code="request_timeout")


class JsonResponse(Response):
    """A JSON answer."""

    media_type = _JSON

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Streamed(Response):
    """An answer in pieces. A client that goes away ends it at once; what it tells of goes on.

    Nothing is sent before the first piece, so that what fails until then has a status. ``failed`` writes what is sent
    when it fails in the middle.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        media_type: str,
        headers: dict[str, str] | None = None,
        failed: Callable[[Failure], bytes] | None = None,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        if headers and "content-length" in headers:
            self.headers["content-length"] = headers["content-length"]
        self._pieces = pieces
        self.failed = failed
        #: Whether something was sent.
        self.has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]  # each is a generator
                async for piece in pieces:
                    await self._begin(send)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._begin(send)
        except asyncio.CancelledError:
            if not gone or task.uncancel() > 0:
                raise
            return
        finally:
            watching.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        if not self.has_begun:
            self.has_begun = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


Handler = Callable[[Call], Awaitable[Response]]


class Endpoint:
    """A handler as an ASGI application."""

    def __init__(self, handler: Handler, calls: Calls, limits: HttpLimits, guard: Guard, names: Names) -> None:
        self._handler = handler
        self._calls = calls
        self._limits = limits
        self._guard = guard
        self._names = (*names, *COMMON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{os.urandom(16).hex()}"
        structlog.contextvars.bind_contextvars(request_id=request_id)
        # Of a client that goes away before its answer.
        status = 499

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                spent = round((time.monotonic() - began) * 1_000)
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(spent).encode()),
                    (b"openai-version", b"2020-10-01"),
                ]
            await send(message)

        try:
            await self._serve(request, request_id, sending)
        except ClientDisconnect:
            pass
        finally:
            spent = round((time.monotonic() - began) * 1_000, 1)
            _log.info("http", method=request.method, path=request.url.path, status=status, duration_ms=spent)

    async def _serve(self, request: Request, request_id: str, send: Send) -> None:
        response: Response | None = None
        try:
            self._guard.check(request)
            call = Call(request, self._limits, shape=_shape(request))
            if not call.has_form:
                # Before it counts: who sends slowly keeps nobody out.
                await call.receive()
            with self._calls.track("streams" if call.has_form else "calls") as call.place:
                response = await self._handler(call)
                if isinstance(response, Streamed):
                    await response(request.scope, request.receive, send)
                    return
        except ClientDisconnect:
            raise
        except Exception as error:
            if isinstance(response, Streamed) and response.has_begun:
                if response.failed is None:
                    # It cannot say that it failed but by breaking off.
                    raise
                piece = response.failed(self._failure(error, request, request_id))
                await send({"type": "http.response.body", "body": piece, "more_body": False})
                return
            response = _failed(self._failure(error, request, request_id))
        # It no longer counts: who reads slowly keeps nobody out either.
        await response(request.scope, request.receive, send)

    def _failure(self, error: Exception, request: Request, request_id: str) -> Failure:
        match error:
            case Refused():
                return error.failure
            case DomainError():
                return failure_of(error, self._names)
            case _:
                _log.error("defect", path=request.url.path, exc_info=error)
                return internal_failure(request_id)


def _failed(failure: Failure) -> JsonResponse:
    return JsonResponse(failure.envelope, failure.status, headers=dict(failure.headers))


def _shape(request: Request) -> Shape:
    found = _BETA.search(request.headers.get("openai-beta", ""))
    if found is None:
        return Shape.V2
    try:
        return Shape(found[1])
    except ValueError:
        text = (
            f"The version '{found[1]}' of the Assistants API is not known. Set the header 'OpenAI-Beta: assistants=v2'."
        )
        raise Refused(Failure(400, text, code="invalid_beta")) from None
