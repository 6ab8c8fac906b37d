"""Waiting for one of several descriptors, and for nothing in between.

A descriptor is watched only while somebody waits for it. So nothing is read that nobody takes: a consumer that stops
makes the pipe fill, and the code that writes to it wait, at no cost in memory.
"""

import asyncio
import select
from collections.abc import Collection


async def wait_readable(descriptors: Collection[int], timeout_seconds: float | None) -> set[int]:
    """Wait until one of them can be read or has ended; empty when the time is over."""
    if ready_now := _poll(descriptors):
        # Others have their turn first: whoever waits here in a loop may never have to wait.
        await asyncio.sleep(0)
        return ready_now
    loop = asyncio.get_running_loop()
    ready: set[int] = set()
    woken: asyncio.Future[None] = loop.create_future()

    def wake(descriptor: int | None) -> None:
        if descriptor is not None:
            ready.add(descriptor)
        if not woken.done():
            woken.set_result(None)

    for descriptor in descriptors:
        loop.add_reader(descriptor, wake, descriptor)
    timer = loop.call_later(timeout_seconds, wake, None) if timeout_seconds is not None else None
    try:
        await woken
    finally:
        if timer is not None:
            timer.cancel()
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
    return ready


def _poll(descriptors: Collection[int]) -> set[int]:
    """Those that can be read at once: having the loop watch them would cost ten times as much."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(0)}
