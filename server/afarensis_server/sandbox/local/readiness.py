"""Waiting for one of several descriptors, and for nothing in between.

A descriptor is watched only while somebody waits for it. So nothing is read that nobody takes: a consumer that stops
makes the pipe fill, and the code that writes to it wait, at no cost in memory.
"""

import asyncio
import select
from collections.abc import Collection


class Watch:
    """Several descriptors behind one of the kernel's, so that the event loop has one to add and remove, not all."""

    def __init__(self, descriptors: Collection[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        for descriptor in descriptors:
            self._epoll.register(descriptor, select.EPOLLIN)

    async def readable(self, timeout_seconds: float | None) -> set[int]:
        """Wait until one of them can be read or has ended; empty when the time is over."""
        if ready_now := self.ready():
            # Others have their turn first: whoever waits here in a loop may never have to wait.
            await asyncio.sleep(0)
            return ready_now
        woken: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._epoll, _wake, woken)
        timer = None if timeout_seconds is None else self._loop.call_later(timeout_seconds, _wake, woken)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()
            self._loop.remove_reader(self._epoll)
        return self.ready()

    def ready(self) -> set[int]:
        """Those that can be read now, or have ended."""
        return {descriptor for descriptor, _ in self._epoll.poll(0)}

    def forget(self, descriptor: int) -> None:
        """Watch one no longer."""
        self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Let go of all."""
        self._epoll.close()


async def wait_readable(descriptors: Collection[int], timeout_seconds: float | None) -> set[int]:
    """Wait until one of some descriptors can be read or has ended; empty when the time is over."""
    watch = Watch(descriptors)
    try:
        return await watch.readable(timeout_seconds)
    finally:
        watch.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
