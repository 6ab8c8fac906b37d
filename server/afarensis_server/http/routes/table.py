"""Puts handlers under their paths."""

from collections.abc import Awaitable, Callable

from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from ...calls import Calls
from ..endpoint import Endpoint, Handler, HttpLimits, failed
from ..errors import Failure

Dispatch = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What every path begins with.
_ROOT = "/v1"


class Table:
    """Collects routes."""

    def __init__(self, calls: Calls, limits: HttpLimits) -> None:
        self._calls = calls
        self._limits = limits
        self._routes: list[Route] = []

    def add(self, path: str, **handlers: Handler) -> None:
        """The handlers of a path, by method."""
        endpoints = {method: Endpoint(handler, self._calls, self._limits) for method, handler in handlers.items()}

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            endpoint = endpoints.get("GET" if scope["method"] == "HEAD" else scope["method"])
            if endpoint is None:
                await failed(_not_allowed(scope, sorted(endpoints)))(scope, receive, send)
            else:
                await endpoint(scope, receive, send)

        self._routes.append(Route(_ROOT + path, _Application(dispatch)))

    def router(self) -> Router:
        """All of them as one application."""
        return Router(routes=self._routes, default=_not_found, redirect_slashes=False)


class _Application:
    """Starlette takes an object for an application, and a function for something else."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._dispatch(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        text = f"Invalid URL ({scope['method']} {scope['path'][:200]})"
        await failed(Failure(404, text, code="unknown_url"))(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})


def _not_allowed(scope: Scope, allowed: list[str]) -> Failure:
    text = (
        f"Not allowed to {scope['method']} on {scope['path'][:200]}. (HINT: Perhaps you meant to use a different HTTP "
        f"method? Allowed here: {', '.join(allowed)}.)"
    )
    return Failure(405, text, code="method_not_supported", headers={"allow": ", ".join(allowed)})
