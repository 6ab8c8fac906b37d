"""Podman, which answers as Docker does, and silently leaves out some of what it is told in Docker's way.

So it is told in its own:

- a seccomp profile is the path of a file where Podman runs, not its text;
- of a tmpfs, only a volume's takes a limit of how many files there are;
- paths to mask are a security option;
- a read-only root gets writable places without limits, unless something of ours is there;
- limits of a container that runs are changed by an interface of Podman's own;
- a runtime is chosen in Podman's configuration alone;
- without root's rights and with control groups of version 1, no group limits anything, and the host's are seen.
"""

import asyncio
import resource
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..driver import SandboxUnavailable
from .engine import LIMIT_KEYS, Death, Engine, NoSuchContainer
from .spec import SECCOMP

_COMPONENT = "Podman Engine"
#: Where Podman mounts a writable tmpfs without limits if the root is read-only. Nothing needs them.
_PLACES = ("/run", "/var/tmp")  # noqa: S108 - closed to everybody
#: What Podman copies from its host.
_COPIES = ("/etc/hosts", "/etc/resolv.conf")
_GROUPS = "/sys/fs/cgroup"
#: Options of a tmpfs that belong to the mount in the container, and not to the volume.
_OF_MOUNT = frozenset({"rw", "nosuid", "nodev", "exec", "noexec"})
#: What a container whose stream has ended gets until Podman must know of its end.
_END_SECONDS = 5.0
#: The exit code of what was killed by SIGKILL.
_KILLED = 137
#: Of the first version that can change limits; later ones answer it, too.
_OWN_INTERFACE = "/v4.3.0/libpod"


@dataclass(frozen=True, slots=True)
class Host:
    """What containers of a Podman have around them."""

    #: The seccomp profile, where Podman reads it.
    profile: Path
    is_rootless: bool
    #: Containers have control groups of their own.
    has_groups: bool


class Podman(Engine):
    """An engine that is a Podman. Takes the same as Docker."""

    product = "Podman"
    build_command = f"{Engine.build_command} DOCKER=podman"

    def __init__(self, engine: Engine, host: Host) -> None:
        super().__init__(engine.client, engine.host)
        self._around = host
        #: Of containers that were not removed yet.
        self._volumes: dict[str, list[str]] = {}

    @classmethod
    async def recognized(cls, engine: Engine, work_directory: Path, runtime: str) -> Engine:
        """The engine itself, or one that speaks to it as Podman wants. Raises SandboxUnavailable."""
        components = (await engine.version()).get("Components") or []
        if not any(component.get("Name") == _COMPONENT for component in components):
            return engine
        info = await engine.info()
        found = info.get("DefaultRuntime", "?")
        if runtime not in ("", found):
            raise SandboxUnavailable(
                f"the setting docker.runtime is {runtime}, but Podman runs all containers that it is asked for by its "
                f"socket with the runtime of its own configuration, {found}: set `runtime` in the section [engine] of "
                "its containers.conf, and restart its service"
            )
        profile = await asyncio.to_thread(_write_profile, work_directory)
        rootless = bool(info.get("Rootless"))
        has_groups = not rootless or str(info.get("CgroupVersion")) != "1"
        return cls(engine, Host(profile, is_rootless=rootless, has_groups=has_groups))

    async def info(self) -> dict[str, Any]:
        """What it says of itself, and what it does not."""
        answer = await super().info()
        return answer if self._around.has_groups else answer | dict.fromkeys(LIMIT_KEYS, False)

    async def create(self, name: str, config: dict[str, Any]) -> str:
        """Make a container and its volumes; its id."""
        translated, volumes = translate(name, config, self._around)
        try:
            for volume, options in volumes.items():
                await self.create_volume(volume, options, config["Labels"])
            container = await super().create(name, translated)
        except (SandboxUnavailable, NoSuchContainer) as error:
            # What cannot be removed now is by the next start.
            with suppress(SandboxUnavailable):
                await self._remove_volumes([*volumes])
            if "seccomp profile" in str(error):
                raise SandboxUnavailable(_unreadable(self._around.profile, error)) from error
            raise
        self._volumes[container] = [*volumes]
        return container

    async def attach(self, container: str) -> socket.socket:
        """As for Docker. It is only now that the runtime makes the container."""
        try:
            return await super().attach(container)
        except NoSuchContainer as error:
            # What Podman answers when the runtime could not, as a conflict that names the container.
            raise SandboxUnavailable(f"the container engine could not make a container: {error}") from error

    async def remove(self, container: str) -> None:
        """End a container and all that it has. Nothing happens to one that is gone."""
        try:
            await super().remove(container)
        except SandboxUnavailable as error:
            if "container state improper" not in str(error):
                raise
            # It was ending by itself, and could not be killed any more.
            await self.wait(container)
            await super().remove(container)
        await self._remove_volumes(self._volumes.pop(container, []))

    async def death(self, container: str) -> Death:
        """How a container ended, as far as the engine knows."""
        with suppress(SandboxUnavailable):  # then it has not ended, or what follows says what is wrong
            # Its stream ends before Podman knows that it has ended.
            await self.wait(container, _END_SECONDS)
        death = await super().death(container)
        if death.out_of_memory or death.exit_code != _KILLED:
            return death
        said = f"was killed (exit code {_KILLED}): by somebody, or for its memory, which Podman 4 does not tell"
        return replace(death, description=said, is_unexplained=True)

    async def limit(self, container: str, *, memory_bytes: int, cpu_quota: int, cpu_period: int) -> None:
        """Change the limits of a container that runs."""
        if not self._around.has_groups:
            return
        limits = {
            "memory": {"limit": memory_bytes, "swap": memory_bytes},
            "cpu": {"quota": cpu_quota, "period": cpu_period},
        }
        await self.post(f"{_OWN_INTERFACE}/containers/{container}/update", limits, "limit a container")

    async def _remove_volumes(self, volumes: list[str]) -> None:
        for volume in volumes:
            await self.remove_volume(volume)


def translate(name: str, config: dict[str, Any], around: Host) -> tuple[dict[str, Any], dict[str, str]]:
    """A container's configuration as Podman takes it, and the options of the tmpfs volumes in it, by their names."""
    host = dict(config["HostConfig"])
    masked = [*host.pop("MaskedPaths"), *_COPIES, *(() if around.has_groups else (_GROUPS,))]
    # What it is told to make read-only is what Podman makes read-only anyway.
    host.pop("ReadonlyPaths")
    volumes, binds = {}, []
    for path, options in host.pop("Tmpfs").items():
        volume = f"{name}{path.replace('/', '-')}"
        # Without an owner, the volume would get the mode that the image has there.
        owner = () if "uid=" in options else ("uid=0", "gid=0")
        volumes[volume] = ",".join([*map(_of_volume, options.split(",")), *owner])
        binds.append(f"{volume}:{path}:{','.join(one for one in options.split(',') if one in _OF_MOUNT)},nocopy")
    host |= {
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={around.profile}", f"mask={':'.join(masked)}"],
        "Binds": binds,
        # Without root's rights, Podman takes what its user may have.
        "Ulimits": host["Ulimits"] if around.is_rootless else [*host["Ulimits"], _most_processes()],
        "Tmpfs": dict.fromkeys(_PLACES, "ro,nosuid,nodev,noexec,size=4096,mode=755,notmpcopyup"),
    }
    translated = {
        **config,
        # Removing one stops it first: for no signal but this does it end at once.
        "StopSignal": "SIGKILL",
        "StopTimeout": 0,
        "HostConfig": host,
    }
    # Of none at all, Podman would make a timer of systemd's.
    translated.pop("Healthcheck")
    return translated, volumes


def _most_processes() -> dict[str, Any]:
    """As many as the machine has. What Podman takes by itself is more than a root may set who has not all rights."""
    most = min(2**20, int(Path("/proc/sys/kernel/pid_max").read_text()))
    return {"Name": "nproc", "Soft": most, "Hard": most}


def _of_volume(option: str) -> str:
    """An option of a tmpfs as a volume takes it."""
    key, _, value = option.partition("=")
    if key == "size":
        # A size would be a quota of the file system that volumes are on, which few have.
        return f"nr_blocks={-(-int(value) // resource.getpagesize())}"
    return option


def _write_profile(directory: Path) -> Path:
    profile = directory.absolute() / "seccomp.json"
    profile.write_text(SECCOMP)
    return profile


def _unreadable(profile: Path, error: Exception) -> str:
    return (
        f"Podman cannot read the server's seccomp profile, {profile}: it must be on the same machine, see the server's "
        "data directory at the same path, and run as root or as the server's own user. For an engine elsewhere take "
        f"Docker. ({error})"
    )
