"""Counts the sessions of a driver."""

import asyncio
from typing import Generic, TypeVar

from ..driver import SandboxFull
from .session import ClosableSession

AnySession = TypeVar("AnySession", bound=ClosableSession)


class Places(Generic[AnySession]):
    """The sessions that are open, and how many more may be.

    A place is taken before its session is opened, and free once what the session lived in is gone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: Those of sessions that are being opened included.
        self._taken = 0
        self._sessions: set[AnySession] = set()

    def take(self) -> None:
        """Take a place for a session to be opened. Raises SandboxFull."""
        if self._taken >= self._most:
            raise SandboxFull(f"all {self._most} sessions are taken")
        self._taken += 1

    def hold(self, session: AnySession) -> None:
        """Let a session have the place that was taken for it."""
        self._sessions.add(session)

    def forget(self, session: AnySession) -> None:
        """Free the place of a session that has left; one whose opening has failed never had it."""
        if session in self._sessions:
            self._sessions.remove(session)
            self._taken -= 1

    async def give_up(self, leaving: asyncio.Task[None] | None) -> None:
        """Free the place of a session that cannot be opened, once what was made for it is gone."""
        if leaving is None:
            self._taken -= 1
            return
        # Until then it is taken, also when this is cancelled once more.
        leaving.add_done_callback(self._free)
        await asyncio.shield(leaving)

    async def close(self) -> None:
        """Close all sessions."""
        await asyncio.gather(*(session.close() for session in [*self._sessions]), return_exceptions=True)

    def _free(self, _: object) -> None:
        self._taken -= 1
