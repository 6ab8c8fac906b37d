"""Puts handlers under their paths."""

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from ...calls import Calls
from ..endpoint import Call, Endpoint, Handler, HttpLimits
from ..errors import Failure, Refused
from ..guard import Guard
from ..names import Names

Dispatch = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What every path begins with.
_ROOT = "/v1"


class Table:
    """Collects routes."""

    def __init__(self, calls: Calls, limits: HttpLimits, guard: Guard) -> None:
        self._calls = calls
        self._limits = limits
        self._guard = guard
        self._routes: list[Route] = []

    def add(self, path: str, names: Names = (), **handlers: Handler) -> None:
        """The handlers of a path, by method; ``names``: what fields are called there, beside those that all share."""
        endpoints = {method: self._endpoint(handler, names) for method, handler in handlers.items()}
        refused = self._endpoint(_refusing_all_but(sorted(endpoints)))

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await endpoints.get(method, refused)(scope, receive, send)

        self._routes.append(Route(_ROOT + path, _Application(dispatch)))

    def router(self) -> Router:
        """All of them as one application."""
        unknown = self._endpoint(_unknown)

        async def default(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await unknown(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1000})

        return Router(routes=self._routes, default=default, redirect_slashes=False)

    def _endpoint(self, handler: Handler, names: Names = ()) -> Endpoint:
        return Endpoint(handler, self._calls, self._limits, self._guard, names)


class _Application:
    """Starlette takes an object for an application, and a function for something else."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._dispatch(scope, receive, send)


async def _unknown(call: Call) -> Response:
    request = call.request
    raise Refused(Failure(404, f"Invalid URL ({request.method} {request.url.path[:200]})", code="unknown_url"))


def _refusing_all_but(allowed: list[str]) -> Handler:
    methods = ", ".join(allowed)

    async def refuse(call: Call) -> Response:
        request = call.request
        text = (
            f"Not allowed to {request.method} on {request.url.path[:200]}. (HINT: Perhaps you meant to use a different "
            f"HTTP method? Allowed here: {methods}.)"
        )
        raise Refused(Failure(405, text, code="method_not_supported", headers={"allow": methods}))

    return refuse
