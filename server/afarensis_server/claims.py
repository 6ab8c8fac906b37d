"""What the server takes of its machine for itself alone: its addresses and its data directory."""

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .ids import new_id
from .refused import Refused
from .settings import Settings

# --- the address ------------------------------------------------------------------------------------------------------

#: How another address is chosen.
GRPC_FLAG = "--listen"
HTTP_FLAG = "--http"
TAKEN = "The address {} is taken by another program. Choose another one with {}."


async def check_addresses(settings: Settings) -> None:
    """Raises Refused when one of them is taken, or none of this machine."""
    for section, flag in ((settings.server, GRPC_FLAG), (settings.http, HTTP_FLAG)):
        if section.listen and (problem := await address_problem(section.host, section.port, flag)):
            raise Refused(problem)


async def address_problem(host: str, port: int, flag: str = GRPC_FLAG) -> str:
    """Why nothing can listen on an address; empty when something can. Nothing is left listening."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"The address {shown} cannot be found: {error.strerror}. Choose another one with {flag}."
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as attempt:
                # As gRPC does: connections of a server that has just ended do not hold the address.
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                attempt.bind(address)
        except OSError as error:
            problem = error
        else:
            # A host may have several addresses; one is enough.
            return ""
    if problem is None or problem.errno == errno.EADDRINUSE:
        return TAKEN.format(shown, flag)
    return f"Nothing can listen on the address {shown}: {problem.strerror}. Choose another one with {flag}."


# --- the data directory -----------------------------------------------------------------------------------------------


def prepare(directory: Path) -> Path:
    """Make the directory, for this user alone, where it is not there. Raises Refused."""
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"The data directory {directory} cannot be made: {error.strerror}.") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused(f"The data directory {directory} is not writable.")
    if directory.stat().st_mode & 0o077:
        # Sessions' files in it are open to any user who gets this far. A directory of something else stays as it is.
        if any(directory.iterdir()) and not (directory / "lock").exists():
            raise Refused(f"The data directory {directory} is open to other users. Close it: chmod 700 {directory}")
        directory.chmod(0o700)
    return directory


def worker_name(directory: Path) -> str:
    """Names whoever holds this data directory, in leases: the same after each start, and of no other server."""
    path = directory / "worker"
    if not path.exists():
        # Whole or not at all: half a name would leave the leases of this start to their time.
        written = directory / "worker.new"
        written.write_text(new_id("worker_"))
        written.replace(path)
    return path.read_text()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the data directory. The kernel lets go of it when the process ends, however it does. Raises Refused."""
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(
                f"The data directory {directory} is in use by another server (pid {file.read().strip() or 'unknown'}). "
                "Stop that one, or choose another directory with --data-dir."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
