"""The container engine, by the docker SDK: blocking calls, each in a thread, and errors in words."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.tls
import docker.utils
import requests.exceptions

from ..driver import SandboxUnavailable
from .tls import polled

_DEFAULT_HOST = "unix:///var/run/docker.sock"
#: Of what an engine says of itself: whether it can limit memory, processes and processor time.
LIMIT_KEYS = ("MemoryLimit", "PidsLimit", "CpuCfsQuota")


@dataclass(frozen=True, slots=True)
class Death:
    """What the engine says of a container that ended."""

    #: In words, as the end of "the session's container ...".
    description: str
    out_of_memory: bool = False
    #: Its first process's, as a shell has it; None where it is not known.
    exit_code: int | None = None
    #: It was killed, and the engine cannot say whether that was for its memory.
    is_unexplained: bool = False


class NoSuchContainer(Exception):
    """The engine does not know the container."""


class _Client(docker.APIClient):  # type: ignore[misc] # it has no types
    """The SDK's client, which looks at no variables but the engine's own.

    REQUESTS_CA_BUNDLE would be believed in place of the authority that was set for the engine, and HTTP_PROXY would get
    to see what goes there.
    """

    @property
    def trust_env(self) -> bool:
        return False

    @trust_env.setter
    def trust_env(self, _: bool) -> None:
        """What the constructor of its base sets."""


class Engine:
    """One engine. Every method raises SandboxUnavailable, with what to do about it."""

    product = "Docker"
    #: What builds the image of sessions in it.
    build_command = "make sandbox-image"

    def __init__(self, client: docker.APIClient, host: str) -> None:
        #: The SDK's, for engines that take the place of this one.
        self.client = client
        self.host = host

    @classmethod
    async def connect(cls, host: str, certificates: Path | None, seconds: float) -> "Engine":
        """Find the engine and agree on a version of its interface."""
        options = docker.utils.kwargs_from_env()
        address = host or options.get("base_url") or _DEFAULT_HOST
        tls = options.get("tls", False) if certificates is None else _tls(certificates)

        def open_client() -> docker.APIClient:
            return _Client(base_url=address, tls=tls, version="auto", timeout=seconds)

        return cls(await _call(open_client, address, "be reached"), address)

    @property
    def is_remote(self) -> bool:
        """Whether it runs on another machine, as far as its address tells."""
        return not self.host.startswith(("unix:", "http+unix:"))

    async def close(self) -> None:
        """Let go of its connections."""
        await asyncio.to_thread(self.client.close)

    async def info(self) -> dict[str, Any]:
        """What it says of itself."""
        answer: dict[str, Any] = await self._ask(self.client.info, "be asked about itself")
        return answer

    async def version(self) -> dict[str, Any]:
        """Its version."""
        answer: dict[str, Any] = await self._ask(self.client.version, "be asked for its version")
        return answer

    async def image(self, name: str) -> dict[str, Any]:
        """What it knows of an image."""
        answer: dict[str, Any] = await self._ask(
            lambda: self.client.inspect_image(name), f"find the image {name}", image=name
        )
        return answer

    async def create(self, name: str, config: dict[str, Any]) -> str:
        """Make a container; its id."""
        made = await self._ask(
            lambda: self.client.create_container_from_config(config, name), "make a container", image=config["Image"]
        )
        return str(made["Id"])

    async def attach(self, container: str) -> socket.socket:
        """A socket to the standard streams of a container that has not started, with the engine's headers in them.

        It can be polled, and is the caller's to close.
        """
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        opened = await self._ask(lambda: self.client.attach_socket(container, streams), "attach to a container")
        connection: socket.socket = getattr(opened, "_sock", opened)
        connection.settimeout(None)
        if isinstance(connection, ssl.SSLSocket):
            return polled(connection, opened._response.close)  # noqa: SLF001 - it hangs there and nowhere else
        copy = connection.dup()
        # All that the SDK has of it, which is of no more use to that.
        await asyncio.to_thread(opened._response.close)  # noqa: SLF001
        connection.close()
        return copy

    async def start(self, container: str) -> None:
        """Start a container."""
        await self._ask(lambda: self.client.start(container), "start a container")

    async def limit(self, container: str, *, memory_bytes: int, cpu_quota: int, cpu_period: int) -> None:
        """Change the limits of a container that runs."""
        limits = {
            "mem_limit": memory_bytes,
            "memswap_limit": memory_bytes,
            "cpu_quota": cpu_quota,
            "cpu_period": cpu_period,
        }
        await self._ask(lambda: self.client.update_container(container, **limits), "limit a container")

    async def inspect(self, container: str) -> dict[str, Any]:
        """What it knows of a container."""
        answer: dict[str, Any] = await self._ask(lambda: self.client.inspect_container(container), "find a container")
        return answer

    async def death(self, container: str) -> Death:
        """How a container ended, as far as the engine knows."""
        try:
            state = (await self.inspect(container))["State"]
        except SandboxUnavailable as error:
            return Death(f"is gone: {error}")
        except NoSuchContainer:
            return Death("was removed by somebody else")
        if state.get("OOMKilled"):
            return Death("ran out of memory", out_of_memory=True)
        if state.get("Running"):
            return Death("is out of reach: the engine closed the connection to it")
        problem = f": {state['Error']}" if state.get("Error") else ""
        code = state.get("ExitCode")
        return Death(f"has ended (exit code {code}{problem})", exit_code=code)

    async def remove(self, container: str) -> None:
        """End a container and all that it has. Nothing happens to one that is gone."""
        try:
            await self._ask(
                lambda: self.client.remove_container(container, force=True, v=True),
                f"remove the container {container}",
            )
        except NoSuchContainer:
            return

    async def wait(self, container: str, seconds: float | None = None) -> None:
        """Wait until a container has ended, for as long as the engine may take to answer, or as is said."""
        try:
            await self._ask(lambda: self.client.wait(container, seconds), f"wait for the container {container}")
        except NoSuchContainer:
            return

    async def containers(self, label: str) -> list[dict[str, Any]]:
        """All containers with a label, those that do not run included."""
        answer: list[dict[str, Any]] = await self._ask(
            lambda: self.client.containers(all=True, filters={"label": label}), "be asked for containers"
        )
        return answer

    async def create_volume(self, name: str, options: str, labels: Mapping[str, str]) -> None:
        """Make a volume that is a tmpfs with these options."""
        driver = {"type": "tmpfs", "device": "tmpfs", "o": options}
        await self._ask(
            lambda: self.client.create_volume(name, driver="local", driver_opts=driver, labels=dict(labels)),
            "make a volume",
        )

    async def remove_volume(self, name: str) -> None:
        """Remove a volume. Nothing happens to one that is gone."""
        try:
            await self._ask(lambda: self.client.remove_volume(name, force=True), f"remove the volume {name}")
        except NoSuchContainer as error:
            # It names the container that has the volume.
            raise SandboxUnavailable(f"the container engine could not remove the volume {name}: {error}") from error

    async def volumes(self, label: str) -> list[dict[str, Any]]:
        """All volumes with a label."""
        answer = await self._ask(lambda: self.client.volumes({"label": label}), "be asked for volumes")
        return answer.get("Volumes") or []

    async def post(self, path: str, content: dict[str, Any], what: str) -> None:
        """Ask for something that the SDK does not know."""

        def ask() -> None:
            # As the SDK's own methods do it.
            answer = self.client._post_json(f"{self.client.base_url}{path}", content)  # noqa: SLF001
            self.client._raise_for_status(answer)  # noqa: SLF001

        await self._ask(ask, what)

    async def _ask(self, call: Callable[[], Any], what: str, *, image: str = "") -> Any:
        missing = (
            f"the container engine has no image {image}. Build it with `{self.build_command}`, or name another one in "
            "the setting docker.image"
        )
        return await _call(call, self.host, what, missing if image else "")


def _tls(certificates: Path) -> docker.tls.TLSConfig:
    ca, certificate, key = (str(certificates / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    try:
        return docker.tls.TLSConfig(client_cert=(certificate, key), ca_cert=ca, verify=True)
    except docker.errors.TLSParameterError as error:
        raise SandboxUnavailable(f"the certificates in {certificates} cannot be used: {error}") from error


async def _call(call: Callable[[], Any], host: str, what: str, missing: str = "") -> Any:
    """Call in a thread. Raises SandboxUnavailable, which says ``missing`` of what is not there, or NoSuchContainer."""
    try:
        return await asyncio.to_thread(call)
    except docker.errors.APIError as error:
        raise _told(error, what, missing) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError) as error:
        raise SandboxUnavailable(_unreachable(error, host)) from error


def _told(error: docker.errors.APIError, what: str, missing: str) -> Exception:
    """An answer that says no."""
    said = str(error.explanation or error).strip()
    if error.status_code == 404 and missing:
        return SandboxUnavailable(missing)
    if error.status_code in (404, 409) and "container" in said.lower():
        return NoSuchContainer(said)
    if "no space left on device" in said.lower():
        return SandboxUnavailable(f"the container engine's disk is full, so it could not {what}: {said}")
    if "unknown runtime" in said.lower() or "invalid runtime" in said.lower():
        return SandboxUnavailable(
            f"the container engine does not know the runtime of the setting docker.runtime: {said}. Install it and "
            "name it in the engine's configuration, or choose another one"
        )
    return SandboxUnavailable(f"the container engine could not {what}: {said}")


def _unreachable(error: BaseException, host: str) -> str:
    """Why there was no answer at all."""
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        return (
            f"the container engine at {host} and the server do not agree on certificates ({error}): check the files in "
            "the setting docker.certificates (DOCKER_CERT_PATH)"
        )
    codes = {cause.errno for cause in _causes(error) if isinstance(cause, OSError) and cause.errno}
    how = "start one (`systemctl start docker`), or say where it is in the setting docker.host"
    if errno.EACCES in codes or errno.EPERM in codes:
        user = os.geteuid()
        return (
            f"the container engine at {host} does not let this user ({user}) in: run the server as a user who may use "
            "it (for Docker the group `docker`, whose members are as good as root), or use a rootless engine of the "
            "server's own user and name its socket in the setting docker.host"
        )
    if codes & {errno.ENOENT, errno.ECONNREFUSED}:
        return f"no container engine answers at {host}: {how}"
    if any(isinstance(cause, requests.exceptions.Timeout | TimeoutError) for cause in _causes(error)):
        return f"the container engine at {host} does not answer in time (setting docker.engine_seconds)"
    return f"no container engine answers at {host} ({error}): {how}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was made from, and what it was made with: the SDK wraps what the kernel said several times."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        pending += [one.__cause__, one.__context__]
        pending += [part for part in one.args if isinstance(part, BaseException)]
        pending += [part for part in (getattr(one, "reason", None),) if isinstance(part, BaseException)]
