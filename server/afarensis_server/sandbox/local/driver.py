"""The local driver: sessions as isolated processes of this machine, forked from a zygote with everything imported."""

import asyncio
import logging
import resource
import shutil
from types import TracebackType
from typing import Self

from ..driver import Layer, SandboxSession, SandboxUnavailable, SessionLimits, SessionSpec
from ..shared.places import Places
from ..shared.pool import Pool
from .launcher import Launcher
from .layers import inspect
from .place import Place
from .session import LocalSession
from .settings import LocalSandboxSettings

_log = logging.getLogger(__name__)

#: File descriptors of the server: of one session (its process, socket, two pipes, two directories, four counters of its
#: group, and what waits for them), and of all else.
_SESSION_DESCRIPTORS = 11
_OTHER_DESCRIPTORS = 4096


class LocalSandbox:
    """Sessions on this machine; see ``SandboxDriver``. Enter it before a gRPC server exists: it starts a process."""

    def __init__(self, settings: LocalSandboxSettings) -> None:
        self._settings = settings
        self._launcher: Launcher | None = None
        self._pool: Pool[Place] | None = None
        self._places: Places[LocalSession] = Places(settings.max_sessions)

    @property
    def name(self) -> str:
        return "local"

    async def __aenter__(self) -> Self:
        _allow_descriptors(self._settings)
        await asyncio.to_thread(self._prepare_directory)
        self._launcher = await Launcher(self._settings).__aenter__()
        try:
            await self._check_layers()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        # Last: what the check opened says nothing about what sessions will ask for.
        self._pool = Pool(self._make_place, self._settings.pool_size, self._settings.usual_limits)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._launcher is not None
        try:
            if self._pool is not None:
                await self._pool.close()
            await self._places.close()
            await self._launcher.settle()
        finally:
            await self._launcher.__aexit__(kind, error, traceback)

    async def open(self, spec: SessionSpec) -> SandboxSession:
        """Open a session; see ``SandboxDriver``."""
        if self._launcher is None:
            raise SandboxUnavailable("the sandbox was not started")
        self._places.take()
        place: Place | None = None
        try:
            place = None if self._pool is None else await self._pool.take(spec.limits)
            if place is not None and spec.files and not await place.show(spec.files):
                await place.leave()
                place = None
            if place is None:
                place = self._make_place(spec.limits)
                await place.furnish(spec.files)
            place.limit(spec.limits)
            session = LocalSession(place, self._settings, spec, on_close=self._places.forget)
        except BaseException:
            await self._places.give_up(None if place is None else place.leaving())
            raise
        finally:
            if self._pool is not None:
                self._pool.refill()
        self._places.hold(session)
        return session

    async def layers(self) -> list[Layer]:
        """The layers of isolation; see ``SandboxDriver``."""
        if self._launcher is None:
            raise SandboxUnavailable("the sandbox was not started")
        return await inspect(self, self._launcher)

    async def _check_layers(self) -> None:
        """Refuse to go on without what makes this a sandbox, unless told to."""
        layers = await self.layers()
        missing = [layer for layer in layers if layer.essential and not layer.active]
        if missing and not self._settings.allow_missing_layers:
            reasons = "; ".join(f"{layer.name}: {layer.detail}" for layer in missing)
            raise SandboxUnavailable(f"essential layers of isolation are missing here ({reasons})")
        for layer in layers:
            if not layer.active:
                _log.warning("sessions run without the layer %s: %s", layer.name, layer.detail)

    def _make_place(self, limits: SessionLimits) -> Place:
        assert self._launcher is not None
        return Place(self._launcher, self._settings, limits)

    def _prepare_directory(self) -> None:
        """Make the work directory, and sweep what a driver left there that was killed."""
        work = self._settings.work_directory
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("lower", "volumes", "jail"):
            shutil.rmtree(work / name, ignore_errors=True)
            (work / name).mkdir()


def _allow_descriptors(settings: LocalSandboxSettings) -> None:
    """Raise this process's limit of open files, if it is too low for as many sessions, as far as the host allows."""
    wanted = _OTHER_DESCRIPTORS + (settings.max_sessions + settings.pool_size) * _SESSION_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft <= settings.max_open_files:
        raise SandboxUnavailable(
            f"the server may have {soft} open files, and must be allowed more than a session, which may have "
            f"{settings.max_open_files}: raise the hard limit (ulimit -Hn, LimitNOFILE) or lower sandbox.open_files"
        )
