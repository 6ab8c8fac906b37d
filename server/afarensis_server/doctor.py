"""What the server needs of its machine besides a sandbox, each looked at without changing anything."""

import asyncio
import fcntl
import os
import shutil
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from .claims import address_problem
from .endpoints import model_endpoints
from .runs.models.endpoint import EndpointSettings
from .runs.models.providers import PROVIDERS
from .settings import Settings

_LEAST_FREE_BYTES = 256 * 1024 * 1024
_ENDPOINT_SECONDS = 5.0
_MODELS = "language models"


@dataclass(frozen=True, slots=True)
class Check:
    """Whether one thing is as the server needs it, and what was found."""

    name: str
    passed: bool
    detail: str


async def checks(settings: Settings) -> list[Check]:
    """Look at the data directory, the address and the endpoints of the language models."""
    server = settings.server
    problem = await address_problem(server.host, server.port)
    return [
        await asyncio.to_thread(_data_directory, server.data_dir.expanduser().absolute()),
        Check("address", not problem, problem or f"{server.listen} is free"),
        *await _endpoints(settings),
    ]


def _data_directory(directory: Path) -> Check:
    name = "data directory"
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, False, f"{directory} cannot be written, since {existing} cannot")
    free = shutil.disk_usage(existing).free
    if free < _LEAST_FREE_BYTES:
        return Check(name, False, f"{directory} has {free // 2**20} MiB left; the server needs some room")
    if (user := _user_of(directory / "lock")) is not None:
        return Check(name, False, f"{directory} is in use by another server (pid {user or 'unknown'})")
    made = "" if existing == directory else ", made at the first start"
    return Check(name, True, f"{directory} can be written, {free / 2**30:.1f} GiB free{made}")


def _user_of(lock: Path) -> str | None:
    """The process that holds the lock of a data directory; None when nobody does."""
    try:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip()
    except FileNotFoundError:
        pass
    return None


async def _endpoints(settings: Settings) -> list[Check]:
    try:
        endpoints = model_endpoints(settings)
    except ValueError as error:
        return [Check(_MODELS, False, str(error))]
    if not endpoints:
        return [Check(_MODELS, True, "no endpoint is set: only the model `direct`")]
    return await asyncio.gather(*(asyncio.to_thread(_endpoint, endpoint) for endpoint in endpoints))


def _endpoint(endpoint: EndpointSettings) -> Check:
    name = _MODELS if endpoint.is_section else f"{_MODELS} of {endpoint.name}"
    url, headers = PROVIDERS[endpoint.provider].listing(endpoint)
    request = Request(url, headers=dict(headers))  # noqa: S310 - http or https, by then
    shown = endpoint.shown_url
    try:
        with urlopen(request, timeout=_ENDPOINT_SECONDS) as answer:  # noqa: S310 - as above
            return Check(name, True, f"{shown} answers with HTTP {answer.status}")
    except HTTPError as error:
        hint = f"; check {endpoint.setting('api_key')}" if error.code in (401, 403) else ""
        return Check(name, False, f"{shown} answers with HTTP {error.code}{hint}")
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        return Check(name, False, f"{shown} does not answer: {reason}")
