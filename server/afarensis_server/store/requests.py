"""Idempotency: what a request_id created, so that repeating a call gives the same instead of another one."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy import Connection, select

from ..clock import now
from ..errors import RequestIdReused
from . import tables
from .writer import Transaction

_requests = tables.requests

#: How long a request_id is remembered.
KEPT = timedelta(hours=24)


def fingerprint_of(*parts: Any) -> str:
    """A digest of what a request asks for: equal requests have equal ones."""
    plain = to_jsonable_python(parts, bytes_mode="base64")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def once(
    tx: Transaction,
    project: str,
    method: str,
    request_id: str,
    fingerprint: str,
    create: Callable[[], str],
    kept: timedelta = KEPT,
) -> str:
    """Create something once for each request_id, within the transaction that creates it; returns its id.

    Without a request_id, each call creates. The same request_id with a different fingerprint raises RequestIdReused.
    What was created may have been deleted since.
    """
    if not request_id:
        return create()
    forget(tx.connection, kept)
    found = find(tx.connection, project, method, request_id)
    if found is None:
        resource_id = create()
        remember(tx.connection, project, method, request_id, fingerprint, resource_id)
        return resource_id
    known, resource_id = found
    if known != fingerprint:
        raise RequestIdReused(request_id=request_id)
    return resource_id


def find(connection: Connection, project: str, method: str, request_id: str) -> tuple[str, str] | None:
    """The fingerprint of a request and the id of what it created."""
    columns = _requests.c
    row = connection.execute(
        select(columns.fingerprint, columns.resource_id).where(
            columns.project == project, columns.method == method, columns.request_id == request_id
        )
    ).one_or_none()
    return None if row is None else (row.fingerprint, row.resource_id)


def remember(
    connection: Connection, project: str, method: str, request_id: str, fingerprint: str, resource_id: str
) -> None:
    connection.execute(
        _requests.insert(),
        {
            "project": project,
            "method": method,
            "request_id": request_id,
            "fingerprint": fingerprint,
            "resource_id": resource_id,
            "create_time": now(),
        },
    )


def forget(connection: Connection, kept: timedelta = KEPT) -> int:
    """Forget requests older than this; tells how many. `once` does it along the way, so that nothing piles up."""
    return connection.execute(_requests.delete().where(_requests.c.create_time < now() - kept)).rowcount


def forget_resource(connection: Connection, project: str, method: str, resource_id: str) -> None:
    """Forget the request that created something which is taken back: repeating it creates anew."""
    columns = _requests.c
    connection.execute(
        _requests.delete().where(
            columns.project == project, columns.method == method, columns.resource_id == resource_id
        )
    )
