"""What every call goes through: request id, log line, project, limits, and errors as statuses."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from ..calls import Calls
from ..domain.projects import DEFAULT_PROJECT
from ..errors import DomainError
from .context import project_of_call
from .disconnects import Context, send
from .errors import RpcFailure, failure_of, internal_failure, knows
from .last import ENDING_STREAMS, Last
from .parsing import parse
from .required import check_required
from .serialized import serializer

_log = structlog.get_logger("afarensis.rpc")

#: Names one call in the logs of both sides. Taken from the client when it is one, and always sent back.
REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")

#: Unary calls that last as long as streams do.
_WAITING_CALLS = frozenset(
    {
        "/afarensis.v1.RunService/WaitRun",
        "/afarensis.v1.SessionService/ExecuteAndWait",
    }
)

_CONTRACT = "/afarensis."

Handler = Any  # grpc.RpcMethodHandler: the class has no public fields.


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the server, health and reflection included."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        # Bound once: that takes longer than not to write a line.
        self._log = _log.bind()
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._wrap(method, handler)
        return self._handlers[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        takes_stream, gives_stream = handler.request_streaming, handler.response_streaming
        kind = "streams" if takes_stream or gives_stream or method in _WAITING_CALLS else "calls"
        behavior = getattr(handler, _BEHAVIORS[takes_stream, gives_stream])
        read = _reader(_request_class(method), takes_stream)

        async def unary(raw: Any, context: Context) -> Any:
            async with _Call(self._calls, self._log, method, kind, context):
                return await behavior(read(raw), context)

        async def streaming(raw: Any, context: Context) -> None:
            # Written from here, and not yielded on: so a client that goes away interrupts this coroutine, wherever it
            # is, and all that the servicer holds is released at once and not by the garbage collector.
            async with (
                _Call(self._calls, self._log, method, kind, context),
                aclosing(behavior(read(raw), context)) as responses,
            ):
                async for response in responses:
                    await send(context, response)

        async def ending(raw: Any, context: Context) -> Any:
            final = None
            async with (
                _Call(self._calls, self._log, method, kind, context),
                aclosing(behavior(read(raw), context)) as responses,
            ):
                async for response in responses:
                    if isinstance(response, Last):
                        final = response.response
                    else:
                        # Bytes: what gRPC takes for the only response is all that it would serialize.
                        await send(context, serialize(response))
                if final is None:
                    raise RuntimeError("a stream without its last response")
            return final

        serialize = serializer(handler.response_serializer)
        ends = method in ENDING_STREAMS
        return _MAKERS[takes_stream, gives_stream and not ends](
            ending if ends else streaming if gives_stream else unary,
            request_deserializer=None,
            response_serializer=serialize,
        )


def _reader(request_class: type[Message], takes_stream: bool) -> Callable[[Any], Any]:
    async def read_all(requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in requests:
            yield read(raw)

    def read(raw: bytes) -> Message:
        request = parse(request_class, raw)
        check_required(request)
        return request

    return read_all if takes_stream else read


_BEHAVIORS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
_MAKERS: dict[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _request_class(method: str) -> type[Message]:
    service, _, name = method.removeprefix("/").partition("/")
    descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    return message_factory.GetMessageClass(descriptor.input_type)


class _Call:
    """One call, from its first byte to its status."""

    def __init__(self, calls: Calls, log: Any, method: str, kind: str, context: Context) -> None:
        # Health and reflection are answered to the end.
        self._tracked = calls.track(kind, also_draining=not method.startswith(_CONTRACT))
        self._log = log
        self._method = method
        self._context = context
        self._request_id = _request_id(context)
        self._start = time.monotonic()

    async def __aenter__(self) -> None:
        structlog.contextvars.bind_contextvars(request_id=self._request_id)
        project_of_call.set(DEFAULT_PROJECT)
        self._context.set_trailing_metadata(((REQUEST_ID_HEADER, self._request_id),))
        try:
            self._tracked.__enter__()
        except DomainError as error:
            await self._abort(failure_of(error), error.reason)

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            self._tracked.__exit__(kind, error, traceback)
        except DomainError as ended:
            error = ended
        if error is None:
            # Behind the status, which the client waits for.
            asyncio.get_running_loop().call_soon(self._report, "OK")
        elif isinstance(error, DomainError) and knows(error):
            await self._abort(failure_of(error), error.reason)
        elif isinstance(error, grpc.aio.AbortError):
            self._report(_name(self._context.code()))
        elif isinstance(error, Exception):
            self._log.error("defect", method=self._method, exc_info=error)
            await self._abort(internal_failure(self._request_id))
        else:
            # The client went away, or its deadline passed. Nobody is there to read a status.
            self._report("CANCELLED")

    async def _abort(self, failure: RpcFailure, reason: str | None = None) -> NoReturn:
        self._report(failure.code.name, reason=reason)
        trailers: tuple[tuple[str, str | bytes], ...] = ((REQUEST_ID_HEADER, self._request_id), *failure.trailers())
        await self._context.abort(failure.code, failure.message, trailers)

    def _report(self, status: str, **details: object) -> None:
        duration_ms = round((time.monotonic() - self._start) * 1_000, 1)
        # Probes come every few seconds and say nothing.
        log = self._log.info if self._method.startswith(_CONTRACT) else self._log.debug
        log("call", method=self._method, status=status, duration_ms=duration_ms, **details)


def _request_id(context: Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID_HEADER and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return os.urandom(16).hex()


def _name(code: grpc.StatusCode | int) -> str:
    # What the context returns is a StatusCode or its number, depending on how the status was set.
    return code.name if isinstance(code, grpc.StatusCode) else str(code)
