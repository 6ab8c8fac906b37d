"""What a session takes up: a container with an agent and an interpreter in it, and a directory for its inputs."""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agent import sources
from ..driver import InputFile, SandboxUnavailable, SessionLimits
from ..shared.inputs import check_name, link_file
from . import spec
from .connection import AgentError, Connection, ConnectionLost, check_hello, checked
from .engine import Death, Engine, NoSuchContainer
from .settings import DockerSandboxSettings

_log = logging.getLogger(__name__)

#: The share of a session's disk that copies of its inputs may take.
_COPIES_SHARE = 0.25
_CHUNK = 256 * 1024
#: Above those of its group, so that the group's are met first: they tell what they refused. This one turns a single
#: huge request into a MemoryError, which keeps the state.
_MEMORY_FACTOR = 2
_DIGEST = sources.digest()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all containers of a driver have in common."""

    engine: Engine
    settings: DockerSandboxSettings
    #: The image's id.
    image: str
    labels: Mapping[str, str]
    #: Inputs are mounted, not streamed.
    mounts_inputs: bool
    private_cgroups: bool
    #: A group limits the memory of all processes together; else each of them is limited by itself.
    memory_is_counted: bool = True


class Container:
    """A container, made for the limits of a session."""

    def __init__(self, surroundings: Surroundings, limits: SessionLimits) -> None:
        self._around = surroundings
        self._settings = surroundings.settings
        self.limits = limits
        self.name = f"afarensis-{secrets.token_hex(8)}"
        self._inputs = self._settings.work_directory / "inputs" / self.name
        self._id = ""
        self._connection: Connection | None = None
        self._furnishing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._has_interpreter = False
        #: Inputs by name.
        self.files: dict[str, InputFile] = {}
        self._linked = 0

    @property
    def connection(self) -> Connection:
        """The stream to the agent."""
        assert self._connection is not None
        return self._connection

    @property
    def is_ready(self) -> bool:
        """Whether it can take code, as far as is known without asking."""
        return self._has_interpreter and self.connection.lost is None

    def is_lost(self) -> bool:
        """Whether its agent is out of reach for good."""
        return self.connection.lost is not None

    def suits(self, limits: SessionLimits) -> bool:
        """Whether a session with these limits can have it: memory and processor time can be changed."""
        mine = self.limits
        return (mine.disk_bytes, mine.disk_inodes, mine.processes, max(mine.open_files, 256)) == (
            limits.disk_bytes,
            limits.disk_inodes,
            limits.processes,
            max(limits.open_files, 256),
        )

    async def furnish(self, *, ahead: bool) -> None:
        """Make and start it; ``ahead`` when nobody waits. Raises SandboxUnavailable: then leave it."""
        # Goes on when whoever waits is cancelled: half of it could not be undone.
        self._furnishing = asyncio.create_task(self._furnish(ahead=ahead), name="sandbox-furnish")
        await asyncio.shield(self._furnishing)

    async def limit(self, limits: SessionLimits) -> None:
        """Bind it to the limits of a session. Raises SandboxUnavailable."""
        mine, self.limits = self.limits, limits
        if (mine.memory_bytes, mine.cpu_cores) != (limits.memory_bytes, limits.cpu_cores):
            try:
                await self._around.engine.limit(
                    self._id,
                    memory_bytes=limits.memory_bytes + self._settings.overhead_bytes,
                    cpu_quota=spec.cpu_quota(limits),
                    cpu_period=spec.CPU_PERIOD,
                )
            except NoSuchContainer as error:
                raise SandboxUnavailable(f"a container that was ready is gone: {error}") from error
        counted = self._around.memory_is_counted
        await self.ask(
            "limits",
            memory_bytes=limits.memory_bytes * (_MEMORY_FACTOR if counted else 1),
            memory_is_counted=counted,
            open_files=limits.open_files,
            file_bytes=limits.disk_bytes,
        )

    async def ask(self, kind: str, seconds: float | None = None, body: bytes = b"", **fields: Any) -> dict[str, Any]:
        """Ask the agent for something that is answered at once. Raises SandboxUnavailable; OSError if it says no."""
        try:
            return await self.connection.ask(kind, seconds or self._settings.answer_seconds, body, **fields)
        except ConnectionLost as error:
            raise SandboxUnavailable(f"the session's container is lost: {error}") from error
        except AgentError as error:
            raise SandboxUnavailable(str(error)) from error

    async def answers(self) -> bool:
        """Whether it can take code, by asking. Raises SandboxUnavailable when nobody answers."""
        return (await self.ask("ping")).get("usable") is True

    async def sees_inputs(self) -> bool:
        """Whether what the server puts into the directory of inputs is there."""
        content = secrets.token_hex(8)
        await asyncio.to_thread((self._inputs / "probe").write_text, content)
        return (await self.ask("probe")).get("content") == content

    async def show(self, files: Sequence[InputFile]) -> None:
        """Make files visible; a name that exists is replaced. Raises SandboxUnavailable."""
        for file in files:
            check_name(file.name)
        try:
            if self._around.mounts_inputs:
                await self._show_mounted(files)
            else:
                for file in files:
                    await self._stream(file)
        except OSError as error:
            raise SandboxUnavailable(f"a file cannot be put into the session: {error.strerror or error}") from error
        self.files |= {file.name: file for file in files}

    async def death(self) -> Death:
        """How it ended. Call it when its connection is lost."""
        said = self.connection.lost
        death = await self._around.engine.death(self._id)
        return death if said is None or "ended" in said or death.out_of_memory else Death(f"is lost: {said}")

    def leaving(self) -> asyncio.Task[None]:
        """Remove it: the one task that does, whoever waits for it."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(), name="sandbox-leave")
        return self._leaving

    async def leave(self) -> None:
        """Remove it. May be repeated; goes on when nobody waits for it any more."""
        await asyncio.shield(self.leaving())

    async def _furnish(self, *, ahead: bool) -> None:
        around, settings = self._around, self._settings
        inputs = None
        if around.mounts_inputs:
            await asyncio.to_thread(self._inputs.mkdir, parents=True, mode=0o755)
            inputs = self._inputs
        config = spec.container(
            settings,
            self.limits,
            image=around.image,
            inputs=inputs,
            labels=around.labels,
            private_cgroups=around.private_cgroups,
        )
        self._id = await around.engine.create(self.name, config)
        try:
            # Before it starts: nothing is missed.
            self._connection = Connection(await around.engine.attach(self._id))
            await around.engine.start(self._id)
        except NoSuchContainer as error:
            raise SandboxUnavailable(f"a new container is gone: {error}") from error
        try:
            check_hello(await self.connection.hello(settings.start_seconds), _DIGEST, around.engine.build_command)
        except SandboxUnavailable as error:
            if self.connection.lost is not None:
                death = await around.engine.death(self._id)
                # Nobody but the kernel has a reason to kill one that starts.
                if death.out_of_memory or death.is_unexplained:
                    raise SandboxUnavailable(f"{error}: {self._too_little()}") from error
            raise
        seconds = settings.start_seconds
        await self.ask("spawn", seconds + settings.answer_seconds, ahead=ahead, start_seconds=seconds)
        self._has_interpreter = True

    def _too_little(self) -> str:
        memory = self.limits.memory_bytes + self._settings.overhead_bytes
        return (
            f"its memory, {memory} B, is not enough to start in (settings sandbox.memory_bytes, docker.overhead_bytes)"
        )

    async def _show_mounted(self, files: Sequence[InputFile]) -> None:
        linked = []
        for file in files:
            self._linked += 1
            source = str(self._linked)
            await asyncio.to_thread(link_file, file.path, self._inputs / source, mode=0o444)
            linked.append({"name": file.name, "file_id": file.file_id, "source": source})
        if linked:
            await self.ask(
                "show",
                files=linked,
                copy_bytes=self._settings.copy_bytes,
                copies_bytes=int(self.limits.disk_bytes * _COPIES_SHARE),
            )

    async def _stream(self, file: InputFile) -> None:
        connection = self.connection
        with await asyncio.to_thread(file.path.open, "rb") as content:
            left = (await asyncio.to_thread(Path(file.path).stat)).st_size
            call = connection.call("put", name=file.name, file_id=file.file_id, size=left)
            try:
                while left > 0:
                    data = await asyncio.to_thread(content.read, min(left, _CHUNK))
                    # Whoever cut it short in the meantime gets zeros, as from a hole.
                    data = data or bytes(min(left, _CHUNK))
                    left -= len(data)
                    call.send("data", data)
                    await connection.drained()
                async with asyncio.timeout(self._settings.answer_seconds):
                    header, _ = await call.next()
            except (ConnectionLost, TimeoutError) as error:
                connection.give_up(f"its agent did not take a file ({error})")
                raise SandboxUnavailable(f"the session's container is lost: {connection.lost}") from error
            finally:
                call.close()
        checked(header)

    async def _leave(self) -> None:
        if self._furnishing is not None:
            await asyncio.wait({self._furnishing})
            if not self._furnishing.cancelled():
                self._furnishing.exception()  # who waited for it has met it
        try:
            if self._connection is not None:
                await self._connection.close()
            if self._id:
                try:
                    await self._around.engine.remove(self._id)
                except SandboxUnavailable as error:
                    _log.error("a session's container could not be removed; the next start tries again: %s", error)
        finally:
            await asyncio.to_thread(shutil.rmtree, self._inputs, ignore_errors=True)
