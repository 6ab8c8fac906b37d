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

from .app import Misconfigured, address_problem, model_endpoint
from .settings import Settings

_LEAST_FREE_BYTES = 256 * 1024 * 1024
_ENDPOINT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """Whether one thing is as the server needs it, and what was found."""

    name: str
    passed: bool
    detail: str


async def checks(settings: Settings) -> list[Check]:
    """Look at the data directory, the address and the endpoint of the language models."""
    server = settings.server
    problem = await address_problem(server.host, server.port)
    return [
        await asyncio.to_thread(_data_directory, server.data_dir.expanduser().absolute()),
        Check("address", not problem, problem or f"{server.listen} is free"),
        await asyncio.to_thread(_endpoint, settings),
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


def _endpoint(settings: Settings) -> Check:
    name = "language models"
    try:
        endpoint = model_endpoint(settings)
    except Misconfigured as error:
        return Check(name, False, str(error))
    if endpoint is None:
        return Check(name, True, "no endpoint is set: only the model `direct`")
    headers = {"Authorization": f"Bearer {endpoint.api_key.get_secret_value()}"} if endpoint.api_key else {}
    request = Request(f"{endpoint.base_url.rstrip('/')}/models", headers=headers)  # noqa: S310 - http or https, by then
    try:
        with urlopen(request, timeout=_ENDPOINT_SECONDS) as answer:  # noqa: S310 - as above
            return Check(name, True, f"{endpoint.base_url} answers with HTTP {answer.status}")
    except HTTPError as error:
        return Check(name, False, f"{endpoint.base_url} answers with HTTP {error.code}")
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        return Check(name, False, f"{endpoint.base_url} does not answer: {reason}")
