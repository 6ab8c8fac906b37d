"""An open session in a container: interpreters come and go in it, and its files stay."""

import asyncio
import errno
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from ..driver import DataFile, ExecutionEvent, InputFile, SandboxUnavailable, SessionSpec
from ..guest.frames import FrameError
from ..observing.files import is_path
from ..shared.execution import CodeTooLongError, Stop, encode_request
from ..shared.session import ClosableSession
from ..shared.verdict import Spent, Verdict, closed, too_long
from .connection import AgentError, ConnectionLost, checked
from .container import Container
from .execution import Execution
from .settings import DockerSandboxSettings

#: Seconds between two looks at the files that running code has finished.
_LOOK_SECONDS = 1.0
_FULL = frozenset(f"{limit} {place}" for limit in ("disk_bytes", "disk_inodes") for place in ("data", "tmp"))
#: The most that a number of the agent's can be.
_MOST = 2**63


class DockerSession(ClosableSession):
    """A session of the docker driver; see ``SandboxSession``."""

    def __init__(
        self,
        container: Container,
        settings: DockerSandboxSettings,
        spec: SessionSpec,
        replace: Callable[[Container], Awaitable[Container]],
        on_close: "Callable[[DockerSession], None]",
    ) -> None:
        super().__init__()
        #: Where it lives: ready to take code, bound to the session's limits, with its files in it.
        self.container = container
        self._settings = settings
        self._spec = spec
        #: Makes another container like one that is lost.
        self._replace = replace
        self._on_close = on_close
        self._execution: Execution | None = None
        #: What the session had used, and which of its disks were full, when the last execution was over.
        self._oom_kills = 0
        self._refused_forks = 0
        self._full: frozenset[str] = frozenset()
        #: The last execution said that its interpreter ended.
        self._loss_told = False
        #: It said that the files are gone, too.
        self._files_loss_told = False

    @property
    def session_id(self) -> str:
        return self._spec.session_id

    async def prepare(self) -> bool:
        """Have an interpreter that takes code at once; see ``SandboxSession``."""
        await self._settle()
        if self.container.is_lost():
            await self._replace_container()
            return True
        seconds = self._settings.start_seconds + self._settings.answer_seconds
        try:
            return bool((await self.container.ask("prepare", seconds)).get("fresh"))
        except OSError as error:
            raise SandboxUnavailable(f"no interpreter can be started: {error}") from error
        except SandboxUnavailable:
            self._check_open()
            if not self.container.is_lost():
                raise
        # It was lost without anybody noticing until now.
        await self._replace_container()
        return True

    async def execute(self, code: str, *, timeout_seconds: float) -> AsyncGenerator[ExecutionEvent, None]:
        """Run one cell; see ``SandboxSession``."""
        number = secrets.randbits(62)
        try:
            request = encode_request(number, code)
        except CodeTooLongError as error:
            yield too_long(*error.args)
            return
        container = self.container
        lost_before = await self.prepare()
        if self._files_loss_told or (self._loss_told and self.container is container):
            # Told by the last execution. A container that died since then took its files along, which nobody knows.
            lost_before = False
        self._loss_told = self._files_loss_told = False
        settings = self._settings
        execution = Execution(
            self.container,
            number,
            self._spec.limits,
            request,
            timeout_seconds=timeout_seconds,
            grace_seconds=settings.grace_seconds,
            window_bytes=settings.window_bytes,
            answer_seconds=settings.answer_seconds,
        )
        self._execution = execution
        next_look = time.monotonic() + _LOOK_SECONDS
        try:
            while not execution.over:
                for event in await execution.advance(max(0.0, next_look - time.monotonic())):
                    yield event
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + _LOOK_SECONDS
                    execution.look()
        finally:
            self._execution = None
            if execution.over or self._closed:
                execution.close()
            else:
                self._settling = asyncio.create_task(execution.settle())
        if self._closed:
            yield closed(execution.elapsed_seconds)
            return
        if not execution.is_trusted:
            # What the agent passed on looked right to it alone.
            await self.container.ask("discard")
        out_of_memory = False
        if execution.files_lost:
            death = await self.container.death()
            out_of_memory = death.out_of_memory
            execution.lost = f"the session's container {death.description}"
        spent = self._account(execution, out_of_memory=out_of_memory)
        state_lost = execution.files_lost or execution.ending is not None
        self._loss_told = state_lost
        self._files_loss_told = execution.files_lost
        verdict = Verdict(execution, self._spec.limits, spent, timeout_seconds=timeout_seconds)
        fresh = bool(execution.account.get("fresh"))
        yield verdict.result(state_lost=lost_before or fresh or state_lost)

    async def interrupt(self, *, within_seconds: float | None = None) -> None:
        """Interrupt the running cell; see ``SandboxSession``."""
        if self._execution is not None:
            self._execution.stop(Stop.INTERRUPT, within_seconds)

    async def add_files(self, files: Sequence[InputFile]) -> None:
        """Make more input files visible; see ``SandboxSession``."""
        self._check_open()
        await self.container.show(files)

    async def list_files(self) -> list[DataFile]:
        """All files below /mnt/data; see ``SandboxSession``."""
        self._check_open()
        call = self.container.connection.call("list")
        found: list[DataFile] = []
        try:
            async with asyncio.timeout(self._settings.answer_seconds):
                while True:
                    header, _ = await call.next()
                    if header["type"] == "reply":
                        checked(header)
                        return found
                    found += [_parse_file(file) for file in _list(header.get("files"))]
        except (ConnectionLost, TimeoutError, FrameError, AgentError) as error:
            raise self._failed(error) from error
        finally:
            call.close()

    async def stat_file(self, path: str) -> DataFile:
        """One file below /mnt/data; see ``SandboxSession``."""
        self._check_open()
        _check_path(path)
        try:
            found = _parse_file((await self.container.ask("stat", path=path)).get("file"))
        except FrameError as error:
            raise self._failed(error) from error
        if found.path != path:
            raise self._failed(FrameError("another file than was asked for"))
        return found

    async def read_file(
        self, path: str, offset_bytes: int = 0, limit_bytes: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The content of a file; see ``SandboxSession``."""
        self._check_open()
        _check_path(path)
        window = self._settings.window_bytes
        call = self.container.connection.call("read", window=window, path=path, offset=offset_bytes, limit=limit_bytes)
        try:
            while True:
                async with asyncio.timeout(self._settings.answer_seconds):
                    header, body = await call.next()
                if header["type"] == "reply":
                    checked(header)
                    return
                if header["type"] != "data" or not body:
                    raise FrameError("no content of a file")
                yield body
        except (ConnectionLost, TimeoutError, FrameError, AgentError) as error:
            raise self._failed(error) from error
        finally:
            if not call.is_answered:
                call.send("stop")
            call.close()

    async def _leave(self) -> None:
        try:
            await self.container.leave()
        finally:
            self._on_close(self)

    async def _replace_container(self) -> None:
        """Have another container, with the session's inputs in it: the files that code made are gone."""
        self._check_open()
        self.container = await self._replace(self.container)
        if self._closed:
            # Meanwhile, with the one before.
            await self.container.leave()
        self._oom_kills = self._refused_forks = 0
        self._full = frozenset()
        self._check_open()

    def _account(self, execution: Execution, *, out_of_memory: bool) -> Spent:
        """What the agent counted, since the last time."""
        kills, refused = int(execution.count("oom_kills")), int(execution.count("refused_forks"))
        kills_before, self._oom_kills = self._oom_kills, kills
        refused_before, self._refused_forks = self._refused_forks, refused
        told = execution.account.get("full")
        full = frozenset(one for one in told if isinstance(one, str)) & _FULL if isinstance(told, list) else frozenset()
        full_before, self._full = self._full, full
        return Spent(
            cpu_seconds=execution.count("cpu_seconds"),
            peak_memory_bytes=int(execution.count("peak_memory_bytes")),
            out_of_memory=out_of_memory or kills > kills_before,
            refused_forks=max(0, refused - refused_before),
            full_before=full_before,
            full=full,
        )

    def _failed(self, error: Exception) -> SandboxUnavailable:
        """What the agent did not do."""
        if isinstance(error, TimeoutError):
            self.container.connection.give_up(f"its agent did not answer within {self._settings.answer_seconds:g} s")
        elif isinstance(error, FrameError):
            self.container.connection.give_up(f"its agent broke the protocol ({error})")
        lost = self.container.connection.lost
        return SandboxUnavailable(f"the session's container is lost: {lost}" if lost is not None else str(error))


def _check_path(path: str) -> None:
    if not is_path(path):
        raise FileNotFoundError(errno.ENOENT, f"no file {path!r}")


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise FrameError("no list of files")
    return value


def _parse_file(value: object) -> DataFile:
    """Check what the agent says of a file."""
    if not isinstance(value, list) or len(value) != 5:
        raise FrameError("no file")
    path, size, modified, untouched, settled = value
    if not isinstance(path, str) or not is_path(path) or type(size) is not int or not 0 <= size < _MOST:
        raise FrameError("no file")
    if type(modified) is not int or abs(modified) >= _MOST:
        raise FrameError("no file")
    return DataFile(path, size, modified, is_untouched=untouched is True, is_settled=settled is True)
