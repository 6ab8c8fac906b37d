"""What every call shares: the API key, a deadline, and errors as ``afarensis.Error``."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc

from afarensis.errors import Error


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: list[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Responses(Iterator[Any]):
    """The responses of a streaming call, raising Error; all else (``cancel()``, ``code()``...) is the call's own."""

    def __init__(self, call: Any, reached: threading.Event) -> None:
        self._call = call
        self._reached = reached

    def __iter__(self) -> "_Responses":
        return self

    def __next__(self) -> Any:
        try:
            item = next(self._call)
        except grpc.RpcError as error:
            raise _decoded(error, self._reached) from error
        self._reached.set()
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _decoded(error: grpc.RpcError, reached: threading.Event) -> Error:
    decoded = Error.from_rpc(error)
    if not decoded.is_unreachable:
        reached.set()
    return decoded


class CallInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the API key to every call, and a deadline to unary calls that have none.

    ``timeout`` is in seconds; None means no deadline, which streams never have: they last as long as what they carry.
    ``reached`` is set once the server has answered.
    """

    def __init__(self, api_key: str | None, timeout: float | None, reached: threading.Event) -> None:
        self._reached = reached
        self._metadata: list[tuple[str, str | bytes]] = [("authorization", f"Bearer {api_key}")] if api_key else []
        self._timeout = timeout

    def _details(self, details: Any, timeout: float | None) -> _CallDetails:
        return _CallDetails(
            method=details.method,
            timeout=timeout if details.timeout is None else details.timeout,
            metadata=[*(details.metadata or ()), *self._metadata],
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )

    def _raise_if_failed(self, call: Any) -> Any:
        # A call started by `.future()` is not done yet and belongs to its caller, who sees grpc's own error.
        if call.done() and not call.cancelled():
            if (error := call.exception()) is None:
                self._reached.set()
            elif isinstance(error, grpc.RpcError):
                raise _decoded(error, self._reached) from error
            else:
                raise error
        return call

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return self._raise_if_failed(continuation(self._details(client_call_details, self._timeout), request))

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._raise_if_failed(continuation(self._details(client_call_details, None), request_iterator))

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return _Responses(continuation(self._details(client_call_details, None), request), self._reached)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return _Responses(continuation(self._details(client_call_details, None), request_iterator), self._reached)
