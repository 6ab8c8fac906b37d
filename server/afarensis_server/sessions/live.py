"""An open session: what this server knows of it beyond its row."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from ..clock import now
from ..domain.sessions import Session
from ..sandbox.driver import DATA_DIRECTORY, SandboxSession
from .outputs import OutputKeeper


class LiveSession:
    """An open session on this server."""

    def __init__(self, row: Session, sandbox: SandboxSession, outputs: OutputKeeper) -> None:
        self._row = row
        self._used_at = row.last_active_time
        self.sandbox = sandbox
        self.outputs = outputs
        #: Input file ids by the name they have in /mnt/data.
        self.names: dict[str, str] = {}
        #: Held while code runs, or files are put in.
        self.turn = asyncio.Lock()
        #: The execution that runs now; empty when none does.
        self.execution_id = ""
        #: The executions that wait for their turn, in order.
        self._waiting: list[str] = []
        #: The session takes the place of an earlier one, which its first execution must be told.
        self.follows_another = False
        #: The reaper passed it by because code ran in it, and wants to know when it is idle.
        self.passed_by = False
        #: The task that ends it.
        self.ending: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._row.id

    @property
    def project(self) -> str:
        return self._row.project

    @property
    def thread_id(self) -> str | None:
        """The thread whose it is; None where it stands alone."""
        return self._row.thread_id

    @property
    def expire_time(self) -> datetime:
        """When it ends unless it is used before."""
        return expiry(self._row, self._used_at)

    @property
    def row(self) -> Session:
        """The session as a client sees it."""
        row, used_at = self._row, self._used_at
        if used_at is row.last_active_time:
            return row
        return replace(row, last_active_time=used_at, expire_time=self.expire_time)

    @row.setter
    def row(self, row: Session) -> None:
        self._row = row
        self._used_at = row.last_active_time

    @property
    def busy_with(self) -> str:
        """The execution that runs now, or will as soon as it can; empty when there is none."""
        return self.execution_id or (self._waiting[0] if self._waiting else "")

    async def take_turn(self, execution_id: str) -> None:
        """Wait until nothing else is under way, and begin an execution. `end_turn` is to follow."""
        self._waiting.append(execution_id)
        try:
            await self.turn.acquire()
        finally:
            self._waiting.remove(execution_id)
        self.execution_id = execution_id

    def end_turn(self) -> None:
        """The execution has ended: the next one may begin."""
        self.execution_id = ""
        self.turn.release()

    def touch(self) -> None:
        """It is used now: its idle time begins anew."""
        # The row follows when somebody looks at it: every execution touches its session twice.
        self._used_at = now()

    def taken_names(self) -> dict[str, str]:
        """File ids by the names in /mnt/data that no further input may take."""
        outputs = {path.removeprefix(f"{DATA_DIRECTORY}/"): file.id for path, file in self.outputs.by_path.items()}
        return outputs | self.names

    def paths(self) -> dict[str, str]:
        """File ids by absolute path: the inputs, and over them what code wrote."""
        inputs = {f"{DATA_DIRECTORY}/{name}": file_id for name, file_id in self.names.items()}
        return inputs | {path: file.id for path, file in self.outputs.by_path.items()}


def expiry(row: Session, used: datetime) -> datetime:
    """When a session ends that is not used after this moment."""
    idle = used + timedelta(seconds=row.idle_seconds)
    return min(idle, row.create_time + timedelta(seconds=row.life_seconds))
