"""Waiting for one of several descriptors, and for nothing in between.

Nothing is read that nobody takes: a consumer that stops makes the pipe fill, and the code that writes to it wait, at no
cost in memory.
"""

import asyncio
import select
from collections.abc import Collection, Set


class Watch:
    """Several descriptors behind one of the kernel's, so that the event loop has one to look at, not all.

    One can wait at a time. The loop looks on when nobody does, until there is something: that costs nothing, and to
    begin anew for each wait takes as long as what is waited for.
    """

    def __init__(self, descriptors: Collection[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._waiter: asyncio.Future[None] | None = None
        self._is_looked_at = False
        for descriptor in descriptors:
            self._epoll.register(descriptor, select.EPOLLIN)

    async def readable(self, timeout_seconds: float | None) -> Set[int]:
        """Wait until one of them can be read or has ended; empty when the time is over."""
        if ready_now := self.ready():
            # Others have their turn first: whoever waits here in a loop may never have to wait.
            await asyncio.sleep(0)
            return ready_now
        woken = self._waiter = self._loop.create_future()
        if not self._is_looked_at:
            self._loop.add_reader(self._epoll, self._look)
            self._is_looked_at = True
        timer = None if timeout_seconds is None else self._loop.call_later(timeout_seconds, _wake, woken)
        try:
            await woken
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return self.ready()

    def ready(self) -> Set[int]:
        """Those that can be read now, or have ended."""
        return dict(self._epoll.poll(0)).keys()

    def forget(self, descriptor: int) -> None:
        """Watch one no longer."""
        self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Let go of all."""
        self._look_away()
        self._epoll.close()

    def _look(self) -> None:
        if self._waiter is None:
            self._look_away()
        else:
            _wake(self._waiter)

    def _look_away(self) -> None:
        if self._is_looked_at:
            self._loop.remove_reader(self._epoll)
            self._is_looked_at = False


async def wait_readable(descriptors: Collection[int], timeout_seconds: float | None) -> Set[int]:
    """Wait until one of some descriptors can be read or has ended; empty when the time is over."""
    watch = Watch(descriptors)
    try:
        return await watch.readable(timeout_seconds)
    finally:
        watch.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
