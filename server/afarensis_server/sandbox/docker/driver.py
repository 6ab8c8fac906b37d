"""The docker driver: sessions in containers of an engine, on this machine or another one."""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ..agent import sources
from ..driver import Layer, SandboxSession, SandboxUnavailable, SessionLimits, SessionSpec
from ..shared.inputs import check_name
from ..shared.places import Places
from ..shared.pool import Pool
from . import spec as container_spec
from .container import Container, Surroundings
from .engine import Engine
from .layers import LIMITS, inspect, limits_memory
from .podman import Podman
from .session import DockerSession
from .settings import DockerSandboxSettings, InputMode

_log = logging.getLogger(__name__)

#: Containers or volumes that are removed at a time.
_SWEPT_TOGETHER = 8
_PROBE = "probe"


class DockerSandbox:
    """Sessions in containers; see ``SandboxDriver``."""

    def __init__(self, settings: DockerSandboxSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._around: Surroundings | None = None
        self._pool: Pool[Container] | None = None
        self._places: Places[DockerSession] = Places(settings.max_sessions)
        #: Names the work directory, in the labels of containers.
        self._owner = ""
        #: Containers on their way out, whose place nobody waits for.
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return "docker"

    async def __aenter__(self) -> Self:
        settings = self._settings
        await asyncio.to_thread(self._prepare_directory)
        self._engine = await Engine.connect(settings.host, settings.certificates, settings.engine_seconds)
        try:
            self._engine = await Podman.recognized(self._engine, settings.work_directory, settings.runtime)
            self._around = await self._look_around(self._engine)
            await self._sweep(self._engine)
            await self._check_layers()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        # Last: what the check opened says nothing about what sessions will ask for.
        self._pool = Pool(self._make, settings.pool_size, settings.usual_limits)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._engine is not None
        try:
            if self._pool is not None:
                await self._pool.close()
            await self._places.close()
            if self._leaving:
                await asyncio.wait(self._leaving)
        finally:
            await self._engine.close()

    async def open(self, spec: SessionSpec) -> SandboxSession:
        """Open a session; see ``SandboxDriver``."""
        if self._around is None:
            raise SandboxUnavailable("the sandbox was not started")
        for file in spec.files:
            check_name(file.name)
        self._places.take()
        container: Container | None = None
        try:
            container = await self._take(spec.limits)
            if container is None:
                container = self._make(spec.limits)
                await container.furnish(ahead=False)
            await container.limit(spec.limits)
            await container.show(spec.files)
            session = DockerSession(container, self._settings, spec, self._replace, on_close=self._places.forget)
        except BaseException:
            await self._places.give_up(None if container is None else self._let_go(container))
            raise
        finally:
            if self._pool is not None:
                self._pool.refill()
        self._places.hold(session)
        return session

    async def layers(self) -> list[Layer]:
        """The layers of isolation; see ``SandboxDriver``."""
        if self._engine is None or self._around is None:
            raise SandboxUnavailable("the sandbox was not started")
        return await inspect(self, self._engine, self._settings)

    async def _take(self, limits: SessionLimits) -> Container | None:
        """A container that was made ahead and answers."""
        container = None if self._pool is None else await self._pool.take(limits)
        if container is None:
            return None
        try:
            if await container.answers():
                return container
        except SandboxUnavailable:
            _log.info("a container that was ready is lost, and another one takes its place")
        _ = self._let_go(container)
        return None

    async def _replace(self, lost: Container) -> Container:
        """Another container for the session of one that is lost, with the same inputs."""
        container = self._make(lost.limits)
        try:
            await container.furnish(ahead=False)
            await container.limit(lost.limits)
            await container.show([*lost.files.values()])
        except BaseException:
            _ = self._let_go(container)
            raise
        _ = self._let_go(lost)
        return container

    def _make(self, limits: SessionLimits) -> Container:
        assert self._around is not None
        return Container(self._around, limits)

    def _let_go(self, container: Container) -> asyncio.Task[None]:
        leaving = container.leaving()
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return leaving

    async def _look_around(self, engine: Engine) -> Surroundings:
        """Find the image and what the engine can do. Raises SandboxUnavailable."""
        settings = self._settings
        image = await engine.image(settings.image)
        labels: Mapping[str, str] = image.get("Config", {}).get("Labels") or {}
        if (found := labels.get(sources.LABEL)) is not None and found != sources.digest():
            raise SandboxUnavailable(
                f"the image {settings.image} was made for another version of the server; build it anew with "
                f"`{engine.build_command}`"
            )
        return Surroundings(
            engine=engine,
            settings=settings,
            image=image["Id"],
            labels={container_spec.LABEL: self._owner, container_spec.PROCESS_LABEL: container_spec.process_label()},
            mounts_inputs=await self._mounts_inputs(engine, image["Id"]),
            # Version 1 shows a container its own group in any case, and older engines refuse to be asked.
            private_cgroups=str((await engine.info()).get("CgroupVersion", "1")) == "2",
        )

    async def _mounts_inputs(self, engine: Engine, image: str) -> bool:
        """Whether the engine sees what the server puts into a directory."""
        settings = self._settings
        if settings.inputs is not InputMode.AUTO:
            return settings.inputs is InputMode.MOUNT
        if engine.is_remote:
            return False
        # A server in a container of its own may speak with the engine of the host, which has other directories.
        around = Surroundings(engine, settings, image, {container_spec.LABEL: self._owner}, True, False)
        probe = Container(around, LIMITS)
        try:
            await probe.furnish(ahead=False)
            return await probe.sees_inputs()
        except SandboxUnavailable as error:
            if "source path" not in str(error):
                raise
            return False
        finally:
            await probe.leave()

    async def _sweep(self, engine: Engine) -> None:
        """Remove containers and volumes of this data directory, and those of servers that are dead."""
        containers = self._orphans(await engine.containers(container_spec.LABEL), "Id")
        await self._remove(containers, engine.remove)
        await self._remove(self._orphans(await engine.volumes(container_spec.LABEL), "Name"), engine.remove_volume)
        if containers:
            _log.warning("%d container(s) of a server that is gone were removed", len(containers))

    async def _remove(self, orphans: Sequence[str], remove: Callable[[str], Awaitable[None]]) -> None:
        for start in range(0, len(orphans), _SWEPT_TOGETHER):
            removing = (remove(one) for one in orphans[start : start + _SWEPT_TOGETHER])
            for left in await asyncio.gather(*removing, return_exceptions=True):
                if isinstance(left, SandboxUnavailable):
                    # It is in nobody's way: whatever is wrong with it, others can be made.
                    _log.error("what a server left behind that is gone could not be removed: %s", left)
                elif left is not None:
                    raise left

    def _orphans(self, found: Sequence[Mapping[str, Any]], key: str) -> list[str]:
        return [str(one[key]) for one in found if self._is_orphan(one.get("Labels") or {})]

    def _is_orphan(self, labels: Mapping[str, Any]) -> bool:
        owner, process = labels.get(container_spec.LABEL), labels.get(container_spec.PROCESS_LABEL)
        # Nobody else holds this data directory while we do.
        return owner == self._owner or (process is not None and container_spec.is_alive(process) is False)

    async def _check_layers(self) -> None:
        """Refuse to go on without what makes this a sandbox, unless told to."""
        layers = await self.layers()
        missing = [layer for layer in layers if layer.essential and not layer.active]
        if missing and not self._settings.allow_missing_layers:
            reasons = "; ".join(f"{layer.name}: {layer.detail}" for layer in missing)
            raise SandboxUnavailable(f"essential layers of isolation are missing here ({reasons})")
        assert self._around is not None
        self._around = replace(self._around, memory_is_counted=limits_memory(layers))
        for layer in layers:
            if not layer.active:
                _log.warning("sessions run without the layer %s: %s", layer.name, layer.detail)

    def _prepare_directory(self) -> None:
        """Make the work directory, and sweep what a driver left there that was killed."""
        work = self._settings.work_directory
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(work / "inputs", ignore_errors=True)
        (work / "inputs").mkdir()
        # Of its own, and not its path: servers in containers may all call theirs the same.
        owner = work / "owner"
        if not owner.exists():
            new = work / "owner.new"
            new.write_text(secrets.token_hex(16))
            new.replace(owner)
        self._owner = owner.read_text()
