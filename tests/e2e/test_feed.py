"""EventService: everything that happens in a project, as one feed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from afarensis import v1
from tests.support.api import ENDLESS, Api, prints, refused, seconds
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def follow(api: Api, **request: object) -> AsyncGenerator[v1.StreamEventsResponse, None]:
    call = api.feed.StreamEvents(v1.StreamEventsRequest(**request))  # type: ignore[arg-type]
    try:
        async for item in call:
            yield item
    finally:
        call.cancel()


async def read(api: Api, count: int, **request: object) -> list[v1.ProjectEvent]:
    """The next so many events of the feed."""
    found: list[v1.ProjectEvent] = []
    async with asyncio.timeout(30), aclosing(follow(api, **request)) as items:
        async for item in items:
            if item.HasField("event"):
                found.append(item.event)
            if len(found) == count:
                return found
    raise AssertionError("the feed ended")


async def newest(api: Api) -> str:
    """The cursor behind all that happened so far."""
    page = await api.feed.ListEvents(v1.ListEventsRequest(start=v1.EVENT_START_NEWEST))
    assert not page.events
    return page.next_cursor


async def listed(api: Api, cursor: str, **request: object) -> list[v1.ProjectEvent]:
    """All events behind a cursor that are stored, page by page."""
    found: list[v1.ProjectEvent] = []
    while True:
        page = await api.feed.ListEvents(v1.ListEventsRequest(after_cursor=cursor, page_size=7, **request))  # type: ignore[arg-type]
        found += page.events
        if not page.events:
            return found
        cursor = page.next_cursor


async def test_feed_tells_of_all_runs_each_in_its_order(api: Api) -> None:
    cursor = await newest(api)
    runs = await asyncio.gather(*(api.run_code(f"print({number})") for number in range(5)))
    for run in runs:
        await api.settled(run)
    events = await listed(api, cursor)
    for run in runs:
        mine = [event for event in events if event.run_id == run.id]
        assert [event.run_event for event in mine] == await api.stored_events(run.id)
        assert {(event.thread_id, event.assistant_id) for event in mine} == {(run.thread_id, run.assistant_id)}
    assert await read(api, len(events), after_cursor=cursor) == events


async def test_reader_gets_events_as_they_happen(api: Api) -> None:
    async with asyncio.timeout(30), aclosing(follow(api, start=v1.EVENT_START_NEWEST)) as items:
        assert (await anext(items)).HasField("heartbeat")
        run = await api.run_code("print('live')")
        seen = []
        async for item in items:
            if item.event.run_id == run.id:
                seen.append(item.event.run_event)
            if item.event.run_event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED:
                break
    assert seen == await api.stored_events(run.id)


async def test_feed_can_be_taken_up_behind_every_item(api: Api) -> None:
    cursor = await newest(api)
    await api.settled(await api.run_code("print(1)"))
    events = await listed(api, cursor)
    for place, event in enumerate(events[:-1]):
        assert (await read(api, 1, after_cursor=event.cursor)) == [events[place + 1]]


async def test_filters_choose_what_fits_all_of_them(api: Api) -> None:
    cursor = await newest(api)
    first, second = [await api.settled(await api.run_code("print(1)")) for _ in range(2)]
    ended = v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED
    for wanted, expected in [
        (v1.EventFilter(run_ids=[second.id]), {second.id}),
        (v1.EventFilter(thread_ids=[first.thread_id]), {first.id}),
        (v1.EventFilter(assistant_ids=[first.assistant_id, second.assistant_id]), {first.id, second.id}),
        (v1.EventFilter(thread_ids=[first.thread_id], run_ids=[second.id]), set()),
    ]:
        assert {event.run_id for event in await listed(api, cursor, filter=wanted)} == expected
    last = await listed(api, cursor, filter=v1.EventFilter(types=[ended]))
    assert [(event.run_id, event.run_event.type) for event in last] == [(first.id, ended), (second.id, ended)]


async def test_heartbeat_brings_a_reader_past_what_was_left_out(api: Api) -> None:
    nobody = v1.EventFilter(run_ids=["run_nobody"])
    async with (
        asyncio.timeout(30),
        aclosing(follow(api, start=v1.EVENT_START_NEWEST, filter=nobody, heartbeat_interval=seconds(1))) as items,
    ):
        await anext(items)
        run = await api.settled(await api.run_code("print(1)"))
        last = await newest(api)
        while (await anext(items)).heartbeat.cursor != last:
            pass
    assert not await listed(api, last, filter=v1.EventFilter(run_ids=[run.id]))


async def test_heartbeats_come_also_while_events_are_left_out(api: Api) -> None:
    run = await api.run_code(ENDLESS)
    await api.until(run.id, prints("line 2\n"))
    completed = v1.EventFilter(types=[v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED])
    async with (
        asyncio.timeout(30),
        aclosing(follow(api, start=v1.EVENT_START_NEWEST, filter=completed, heartbeat_interval=seconds(1))) as items,
    ):
        first, second = [(await anext(items)).heartbeat.cursor for _ in range(2)]
    running = (await api.runs.GetRun(v1.GetRunRequest(run_id=run.id))).run
    assert running.status == v1.RUN_STATUS_IN_PROGRESS
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    await api.settled(run)
    # The second one leads past what was left out meanwhile.
    assert first
    assert second
    assert len(await listed(api, first)) > len(await listed(api, second))


async def test_events_of_a_deleted_thread_are_gone_and_others_go_on(api: Api) -> None:
    cursor = await newest(api)
    gone, kept = [await api.settled(await api.run_code("print(1)")) for _ in range(2)]
    begun = (await listed(api, cursor))[0].cursor
    await api.threads.DeleteThread(v1.DeleteThreadRequest(thread_id=gone.thread_id))
    assert {event.run_id for event in await listed(api, begun)} == {kept.id}


@pytest.mark.parametrize("change", ["x", "", "A"])
async def test_cursor_that_was_changed_is_refused(api: Api, change: str) -> None:
    cursor = await newest(api)
    changed = cursor[:-2] + change
    if not changed:
        return
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await api.feed.ListEvents(v1.ListEventsRequest(after_cursor=changed))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await read(api, 1, after_cursor=changed)


async def test_wrong_requests_name_all_that_is_wrong(api: Api) -> None:
    wanted = v1.EventFilter(run_ids=["run_x"] * 101, types=[9999])  # type: ignore[list-item]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS") as refusal:
        await api.feed.ListEvents(v1.ListEventsRequest(filter=wanted, page_size=1001))
    assert {field for field, _ in refusal.violations} == {"filter.run_ids", "filter.types[0]", "page_size"}


async def is_trimmed(api: Api, request: v1.ListRunEventsRequest) -> bool:
    try:
        await api.runs.ListRunEvents(request)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.OUT_OF_RANGE
    return False


async def test_events_that_are_no_longer_kept_are_said_to_be_gone(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"events.keep_seconds": 0.2}) as server:
        async with Api(server.address) as api:
            run = await api.settled(await api.run_code("print(1)"))
            first = (await api.feed.ListEvents(v1.ListEventsRequest(page_size=1))).next_cursor
            waiting = v1.ListRunEventsRequest(run_id=run.id, after_sequence=1)
            async with asyncio.timeout(20):
                while not await is_trimmed(api, waiting):  # noqa: ASYNC110  nobody tells
                    await asyncio.sleep(0.05)
            with refused(grpc.StatusCode.OUT_OF_RANGE, "EVENTS_TRIMMED") as refusal:
                await api.runs.ListRunEvents(waiting)
            oldest = int(refusal.metadata["oldest_sequence"])
            (last,) = [event async for event in api.follow(run.id, oldest - 1)]
            assert last.run.status == v1.RUN_STATUS_COMPLETED
            with refused(grpc.StatusCode.OUT_OF_RANGE, "EVENTS_TRIMMED"):
                [event async for event in api.follow(run.id)]
            with refused(grpc.StatusCode.OUT_OF_RANGE, "EVENTS_TRIMMED"):
                await api.feed.ListEvents(v1.ListEventsRequest(after_cursor=first))
            (only,) = (await api.feed.ListEvents(v1.ListEventsRequest())).events
            assert only.run_event == last
            # What the events told of is all there.
            assert [call.outputs[0].output.text for call in await api.code_calls(run)] == ["1\n"]
