"""When open sessions are looked at, and ended."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from afarensis_server.clock import now
from afarensis_server.domain.sessions import Session, SessionStatus
from afarensis_server.sessions.live import LiveSession
from afarensis_server.sessions.reaping import Reaper
from tests.support.sandbox import LIMITS

#: What it does not look at.
_NONE: Any = None


class Id(str):
    """An id that tells, by a weak reference, whether anybody still has it."""

    __slots__ = ("__weakref__",)


class Watched(LiveSession):
    """An open session that counts how often it was looked at."""

    looks = 0

    @property
    def expire_time(self) -> datetime:
        self.looks += 1
        return super().expire_time


class House:
    """A reaper with the sessions that it watches, and those it ended, in order."""

    def __init__(self) -> None:
        self.open: dict[str, LiveSession] = {}
        self.ended: list[LiveSession] = []
        self.changed = asyncio.Condition()
        self.reaper = Reaper(self.open, self._expire)

    def session(self, name: str, *, idle: float = 3600.0, life: float = 3600.0, ago: float = 0.0) -> Watched:
        """Open a session that was used so many seconds ago."""
        used = now() - timedelta(seconds=ago)
        row = Session(
            Id(name),
            "default",
            used,
            SessionStatus.ACTIVE,
            thread_id=None,
            limits=LIMITS,
            idle_seconds=idle,
            life_seconds=life,
            last_active_time=used,
            expire_time=used + timedelta(seconds=min(idle, life)),
        )
        live = self.open[name] = Watched(row, _NONE, _NONE)
        self.reaper.watch(live)
        return live

    async def until_ended(self, *sessions: LiveSession) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.ended == list(sessions))

    async def _expire(self, live: LiveSession) -> None:
        del self.open[live.id]
        async with self.changed:
            self.ended.append(live)
            self.changed.notify_all()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    async with _watching(house):
        yield house


async def test_sessions_end_in_the_order_of_their_times(house: House) -> None:
    house.session("stays")
    later = house.session("later", idle=0.2)
    sooner = house.session("sooner", idle=0.1)
    await house.until_ended(sooner, later)
    assert list(house.open) == ["stays"]


async def test_session_that_comes_while_all_others_have_long_to_live_ends_at_its_own_time(house: House) -> None:
    house.session("stays")
    await asyncio.sleep(0)  # it has gone to sleep until then
    await house.until_ended(house.session("short", idle=0.05))


async def test_use_puts_off_the_end() -> None:
    house = House()
    used = house.session("used", idle=60.0, ago=61.0)
    idle = house.session("idle", idle=60.0, ago=60.5)
    house.reaper.touch(used)
    async with _watching(house):
        await house.until_ended(idle)
    assert list(house.open) == ["used"]


async def test_session_at_work_ends_when_it_is_idle_again(house: House) -> None:
    busy = house.session("busy", life=60.0, ago=61.0)
    busy.execution_id = "exec_1"
    idle = house.session("idle", ago=3601.0)
    await house.until_ended(idle)
    assert busy.passed_by
    busy.execution_id = ""
    house.reaper.touch(busy)
    await house.until_ended(idle, busy)


async def test_opening_and_using_a_session_looks_at_no_other(house: House) -> None:
    crowd = [house.session(f"session {number}") for number in range(1_000)]
    await asyncio.sleep(0)
    before = [live.looks for live in crowd]
    for number in range(100):
        house.reaper.touch(house.session(f"another {number}"))
        await asyncio.sleep(0)
    assert [live.looks for live in crowd] == before


async def test_nothing_is_kept_of_sessions_that_were_closed(house: House) -> None:
    gone = []
    for number in range(1_000):
        live = house.session(f"session {number}")
        gone.append(weakref.ref(live.id))
        del house.open[live.id], live
    gc.collect()
    assert sum(kept() is not None for kept in gone) < 100


@asynccontextmanager
async def _watching(house: House) -> AsyncIterator[None]:
    house.reaper.start()
    try:
        yield
    finally:
        await house.reaper.stop()
