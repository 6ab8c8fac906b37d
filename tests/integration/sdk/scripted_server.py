"""A real gRPC server whose answers a test scripts."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from afarensis import v1

Answer = Callable[[Any, grpc.ServicerContext], Any]


class ScriptedServer:
    """Answers each call of a method with the next of the answers given for it, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.contexts: list[grpc.ServicerContext] = []
        self._answers: dict[str, list[Answer]] = {}
        self._server = grpc.server(ThreadPoolExecutor(8))
        for servicer, register in (
            (v1.FileServiceServicer, v1.add_FileServiceServicer_to_server),
            (v1.RunServiceServicer, v1.add_RunServiceServicer_to_server),
            (v1.ThreadServiceServicer, v1.add_ThreadServiceServicer_to_server),
        ):
            methods = {name: self._method(name) for name in vars(servicer) if name[0].isupper()}
            register(type(servicer.__name__, (servicer,), methods)(), self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def answer(self, method: str, *answers: Answer) -> None:
        self._answers.setdefault(method, []).extend(answers)

    def asked(self, method: str) -> list[Any]:
        return [request for name, request in self.requests if name == method]

    def _method(self, name: str) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
        def call(_servicer: object, request: Any, context: grpc.ServicerContext) -> Any:
            messages = [*request] if isinstance(request, Iterator) else request
            self.requests.append((name, messages))
            self.contexts.append(context)
            return self._answers[name].pop(0)(messages, context)

        return call

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()


def abort(context: grpc.ServicerContext, status: grpc.StatusCode, message: str, *details: Message) -> None:
    """End a call as the server does: with details in google.rpc.Status."""
    rich = Status(code=status.value[0], message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        rich.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", rich.SerializeToString()),))
    context.abort(status, message)
