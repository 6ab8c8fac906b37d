"""Keeps web pages out: whoever shows somebody a page can have their browser send requests to this machine.

Nobody needs a key yet, so what a browser can be made to send must not count. A page of another site is told by its
``Origin``; one that had its own name lead to this machine (DNS rebinding) by the ``Host`` it asks for.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request

from .errors import Failure, Refused


class Guard:
    """Checks where a request comes from.

    Args:
        host: where the server listens. On a loopback address, it may be asked for by such a name only.
        names: other names by which it may be asked for, without ports; where there are some, by no more than those.
    """

    def __init__(self, host: str, names: Collection[str] = ()) -> None:
        self._is_strict = _is_loopback(host) or bool(names)
        self._names = {name.lower() for name in (*names, host)}

    def check(self, request: Request) -> None:
        """Raises Refused."""
        asked = request.headers.get("host", "")
        name = _name_of(asked)
        if self._is_strict and name not in self._names and not _is_loopback(name):
            text = (
                f"This server is not called '{name[:100]}'. If it is meant to be, add the name to the setting "
                "http.host_names."
            )
            raise Refused(Failure(403, text, code="unknown_host"))
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != asked.lower():
            text = "Requests from web pages of other sites are refused."
            raise Refused(Failure(403, text, code="foreign_origin"))


def _name_of(host: str) -> str:
    """The name or address in a header Host, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
