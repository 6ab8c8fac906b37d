import asyncio

import pytest

from afarensis_server.calls import CallLimits, Calls
from afarensis_server.errors import ShuttingDown, TooManyCalls


async def hold(calls: Calls, kind: str, started: asyncio.Event, release: asyncio.Event) -> None:
    with calls.track(kind):
        started.set()
        await release.wait()


async def test_calls_beyond_the_limit_are_refused_and_streams_are_counted_apart() -> None:
    calls, started, release = Calls(CallLimits(calls=1, streams=1)), asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(hold(calls, "calls", started, release))
    await started.wait()
    with pytest.raises(TooManyCalls, match="1 calls already"), calls.track("calls"):
        pass
    with calls.track("streams"):
        assert len(calls) == 2
    release.set()
    await task
    assert len(calls) == 0
    with calls.track("calls"):
        pass


async def test_call_that_becomes_a_stream_gives_its_place_to_another_unless_it_is_refused() -> None:
    calls, started, release = Calls(CallLimits(calls=1, streams=1)), asyncio.Event(), asyncio.Event()
    with calls.track("calls") as place:
        place.become("streams")
        assert len(calls) == 1
        task = asyncio.create_task(hold(calls, "calls", started, release))
        await started.wait()
    release.set()
    await task
    started.clear()
    release.clear()
    task = asyncio.create_task(hold(calls, "streams", started, release))
    await started.wait()
    with calls.track("calls") as place:
        with pytest.raises(TooManyCalls, match="1 streams already"):
            place.become("streams")
        assert len(calls) == 2
    release.set()
    await task
    assert len(calls) == 0


async def test_drain_waits_for_calls_that_end_in_time() -> None:
    calls, started, release = Calls(CallLimits()), asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(hold(calls, "streams", started, release))
    await started.wait()
    calls.refuse_new()
    finishing = asyncio.create_task(calls.finish(60))
    release.set()
    await finishing
    assert task.done()
    task.result()


async def test_drain_ends_what_does_not_end_in_time_and_waits_for_its_clean_up() -> None:
    calls, started, cleaned = Calls(CallLimits()), asyncio.Event(), asyncio.Event()

    async def call() -> None:
        with calls.track("streams"):
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.set()

    task = asyncio.create_task(call())
    await started.wait()
    await calls.finish(0)
    assert cleaned.is_set()
    with pytest.raises(ShuttingDown):
        await task


async def test_new_calls_are_refused_while_draining() -> None:
    calls = Calls(CallLimits())
    calls.refuse_new()
    with pytest.raises(ShuttingDown), calls.track("calls"):
        pass
    with calls.track("calls", also_draining=True):
        pass


async def test_client_that_goes_away_stays_a_cancellation() -> None:
    calls, started, release = Calls(CallLimits()), asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(hold(calls, "streams", started, release))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(calls) == 0
