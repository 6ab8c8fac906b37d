"""Keyset pagination by id, which is by creation, with page tokens that cannot be forged or carried to another list.

A token is the id of the last row seen, behind a MAC over that id and over all that defines the list: project, table,
filters, order. It holds no secret and needs no state, so it stays valid while rows come and go.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Select, Table, select

from ..errors import PageTokenInvalid
from . import tables

Item = TypeVar("Item")

#: The size of a page when none is asked for.
DEFAULT_PAGE_SIZE = 20
#: The largest page of most lists; a request for more is refused where fields are validated.
MAX_PAGE_SIZE = 100

_MAC_BYTES = 16
_SELECT_SECRET = select(tables.keys.c.value).where(tables.keys.c.name == "page_tokens")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: ``size`` 0 is the default; ``token`` "" is the first page; newest first unless told otherwise.

    Items may also be asked for by ids, instead of a token: those right behind ``after``, in the order of the list, or
    right before ``before``. Whether there is such an item makes no difference.
    """

    size: int = 0
    token: str = ""
    descending: bool = True
    after: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list, and the token of the next page ("" on the last one).

    Where the items before another were asked for, the token says no more than that there are others before them.
    """

    items: list[Item]
    next_token: str = ""


class Listed(Protocol):
    """What a list is ordered by."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Listed)


def read_page(
    connection: Connection,
    project: str,
    request: PageRequest,
    table: Table,
    filters: Mapping[str, Sequence[str]],
    statements: Sequence[Select[Any]],
    value: Callable[[Sequence[Any]], T],
) -> Page[T]:
    """The page that a request asks for of the rows of all statements, none of which has a row of another's.

    Raises PageTokenInvalid for a token of another list.
    """
    size = request.size or DEFAULT_PAGE_SIZE
    # With what the list is ordered by: a token of when that was the time is not one of it.
    seal = Seal(connection, [project, table.name, sorted(filters.items()), "id", request.descending])
    after = seal.open(request.token) if request.token else request.after
    # Those before an item are found from there backwards, and turned round at the end.
    backwards = bool(request.before and not after)
    for position, older in ((after, request.descending), (request.before, not request.descending)):
        if position:
            behind = table.c.id < position if older else table.c.id > position
            statements = [statement.where(behind) for statement in statements]
    descending = request.descending != backwards
    order = table.c.id.desc() if descending else table.c.id
    items = [
        value(row) for statement in statements for row in connection.execute(statement.order_by(order).limit(size + 1))
    ]
    if len(statements) > 1:
        # Each is in order, and none needs more than a page of it.
        items.sort(key=lambda item: item.id, reverse=descending)
        del items[size + 1 :]
    has_more = len(items) > size
    del items[size:]
    if backwards:
        items.reverse()
    return Page(items, seal.make(items[-1].id) if has_more else "")


class Seal:
    """Makes and opens the tokens of one list; ``scope`` is all that defines the list, as JSON has it."""

    def __init__(self, connection: Connection, scope: Sequence[object]) -> None:
        self._connection = connection
        self._scope = json.dumps(scope).encode()

    def make(self, key: str) -> str:
        """The token of the place behind a key."""
        raw = key.encode()
        return base64.urlsafe_b64encode(self._mac(raw) + raw).rstrip(b"=").decode()

    def open(self, token: str) -> str:
        """The key in a token. Raises PageTokenInvalid for a token of another list."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError as error:
            raise PageTokenInvalid from error
        mac, key = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(key)):
            raise PageTokenInvalid
        return key.decode()

    def _mac(self, key: bytes) -> bytes:
        # The length keeps the end of the scope and the beginning of the key apart.
        message = len(self._scope).to_bytes(8, "big") + self._scope + key
        return hmac.digest(self._secret, message, hashlib.sha256)[:_MAC_BYTES]

    @cached_property
    def _secret(self) -> bytes:
        # Most lists have one page, and no token.
        return _secret(self._connection)


def derived_key(connection: Connection, purpose: bytes) -> bytes:
    """A key of its own for a purpose, made of the secret of this database."""
    return hmac.digest(_secret(connection), purpose, hashlib.sha256)


def _secret(connection: Connection) -> bytes:
    secret: bytes = connection.execute(_SELECT_SECRET).scalar_one()
    return secret
