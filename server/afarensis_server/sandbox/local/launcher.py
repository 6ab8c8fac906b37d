"""Makes interpreters: keeps a zygote to fork from, users to run as and groups to run in."""

import asyncio
import itertools
import logging
import os
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..driver import SandboxUnavailable
from ..zygote.privileges import is_host_root
from .cgroups import Cgroup, Cgroups
from .interpreter import Interpreter
from .settings import LocalSandboxSettings
from .zygotes import Supervisor, Zygote

_log = logging.getLogger(__name__)

_HINT = (
    "An ordinary user needs user namespaces: user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 "
    "where it exists, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0, and in a container an unmasked /proc."
)


@dataclass(frozen=True, slots=True)
class Seat:
    """What a session occupies for as long as it lives, whichever interpreter it has."""

    #: Which of the driver's users.
    user: int
    cgroup: Cgroup


class Launcher:
    """Starts the supervisor on entering, and ends it with all it started on leaving."""

    def __init__(self, settings: LocalSandboxSettings) -> None:
        self._settings = settings
        #: Sessions are other users than the server, each another one. An ordinary user can only be himself.
        self.distinct_users = is_host_root()
        seats = settings.max_sessions + settings.pool_size
        #: Free users; the zygote is number 0. The longest unused comes first.
        self._users = deque(range(1, seats + 1) if self.distinct_users else [0] * seats)
        self.cgroups = Cgroups.find(settings.cgroups)
        self._names = itertools.count(1)
        self._zygote: Zygote | None = None
        self._zygotes: list[Zygote] = []
        self._starting = asyncio.Lock()
        #: Starts the zygote that takes over from one that is used up.
        self._replacing: asyncio.Task[None] | None = None
        self._supervisor: Supervisor | None = None
        #: What must be done before it ends.
        self._kept: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        users = self._settings.max_sessions + self._settings.pool_size + 1 if self.distinct_users else 1
        self._supervisor = Supervisor.start(self._settings, users)
        try:
            await self._current_zygote()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait({self._replacing})
        for zygote in self._zygotes:
            zygote.kill()
        if self._supervisor is not None:
            await self._supervisor.stop()
        self.cgroups.close()

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor, which keeps the sessions' files."""
        if self._supervisor is None:
            raise SandboxUnavailable("the sandbox was not started")
        return self._supervisor

    def keep(self, task: asyncio.Task[None]) -> None:
        """Own a task that must be done before the end, since who started it may have been cancelled."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    async def settle(self) -> None:
        """Wait for all such tasks."""
        if self._kept:
            await asyncio.wait(self._kept)

    def take_seat(self) -> Seat:
        """Find a user and make a group."""
        if not self._users:
            raise SandboxUnavailable("all places for sessions are taken, or still being left")
        user = self._users.popleft()
        try:
            return Seat(user, self.cgroups.create(f"session-{next(self._names)}"))
        except BaseException:
            self._users.append(user)
            raise

    def release_seat(self, seat: Seat) -> None:
        """Give back a seat that has no processes and no files left."""
        self.cgroups.remove(seat.cgroup)
        self._users.append(seat.user)

    async def spawn(self, seat: Seat) -> Interpreter:
        """Start an interpreter in a seat, parked."""
        zygote = await self._current_zygote()
        entrances = seat.cgroup.open_entrances()
        # Where it cannot enter its group itself, it is put there, and can get ready meanwhile.
        is_put = bool(self.cgroups.version) and not entrances
        warming = asyncio.create_task(asyncio.to_thread(self.cgroups.warm_up)) if is_put else None
        try:
            owner = self._settings.first_user + seat.user if self.distinct_users else None
            interpreter = await zygote.spawn(f"interpreter-{next(self._names)}", seat.user, owner, entrances)
        except SandboxUnavailable:
            # It may hang. Its sessions go on without it, and the next one is a fresh one's.
            if self._zygote is zygote:
                self._zygote = None
            zygote.retire()
            raise
        finally:
            for descriptor in entrances:
                os.close(descriptor)
            if warming is not None:
                await asyncio.wait({warming})
        if is_put:
            attaching = asyncio.to_thread(seat.cgroup.attach, interpreter.pid)
            interpreter.attached = asyncio.create_task(attaching, name="sandbox-attach")
        return interpreter

    async def _current_zygote(self) -> Zygote:
        """The zygote to fork from: a fresh one if there is none. A used-up one goes on until its heir is ready."""
        zygote = self._zygote
        if zygote is None or not zygote.alive:
            async with self._starting:
                zygote = self._zygote
                if zygote is None or not zygote.alive:
                    zygote = await self._renew()
        elif zygote.spawned >= self._settings.spawns_per_zygote and (self._replacing is None or self._replacing.done()):
            self._replacing = asyncio.create_task(self._replace(), name="sandbox-zygote")
        return zygote

    async def _replace(self) -> None:
        try:
            async with self._starting:
                await self._renew()
        except SandboxUnavailable as error:
            # The old one goes on, and whoever forks from it next has this tried again.
            _log.warning("no fresh zygote could be started: %s", error)

    async def _renew(self) -> Zygote:
        fresh = await self._start_zygote()
        old, self._zygote = self._zygote, fresh
        if old is not None:
            old.retire()
        self._zygotes = [one for one in self._zygotes if one.alive] + [fresh]
        return fresh

    async def _start_zygote(self) -> Zygote:
        try:
            return await Zygote.start(self.supervisor, self._settings)
        except SandboxUnavailable as error:
            said = self.supervisor.last_words()
            hint = "" if self.distinct_users else f" ({_HINT})"
            raise SandboxUnavailable(f"{error}{f': {said}' if said else ''}{hint}") from error
