"""Readers of a run: late, twice, slow, gone; none of them changes what the run does or what the others see."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from afarensis import v1
from tests.support.api import LOOKUP, Api, event_name, events_of, is_event, printed, prints, seconds, text_of
from tests.support.scripted_model import Wait, call, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Add = Callable[..., Script]


def stream(run_id: str, after: int = 0) -> v1.StreamRunEventsRequest:
    return v1.StreamRunEventsRequest(run_id=run_id, after_sequence=after, heartbeat_interval=seconds(0.001))


async def test_first_item_is_a_heartbeat_with_the_end_of_the_log(api: Api, script: Add) -> None:
    run = await api.settled(await api.run(script(text("Hi")).model))
    last = len(await api.stored_events(run.id))
    for after in (0, 3, last):
        items = [item async for item in api.runs.StreamRunEvents(stream(run.id, after))]
        assert items[0].heartbeat.last_sequence == last
        assert [item.event.sequence for item in items[1:]] == list(range(after + 1, last + 1))


async def test_heartbeat_comes_when_nothing_happens_at_least_every_second(api: Api, script: Add) -> None:
    release = asyncio.Event()
    run = await api.run(script(text("Well").then(Wait(release))).model)
    seen = await api.until(run.id, is_event("message.delta"))
    items = api.runs.StreamRunEvents(stream(run.id, seen[-1].sequence))
    # One millisecond was asked for; a second is the least.
    first, moment = await anext(aiter(items)), time.monotonic()
    second = await anext(aiter(items))
    assert 0.9 < time.monotonic() - moment < 10
    release.set()
    assert [beat.heartbeat.last_sequence for beat in (first, second)] == [seen[-1].sequence] * 2
    rest = [event_name(event) async for event in events_of(items)]
    assert rest[-1] == "run.completed"


async def test_streams_that_are_dropped_leave_the_run_alone(api: Api, script: Add) -> None:
    release = asyncio.Event()
    assistant = await api.assistant(script(text("To be ").then(Wait(release)).then(*text("continued.").steps)).model)
    create = v1.CreateRunRequest(thread_id=(await api.thread()).id, assistant_id=assistant.id)
    creating = api.runs.CreateRunStream(v1.CreateRunStreamRequest(run=create))
    await anext(aiter(creating))
    run = (await anext(aiter(creating))).event.run
    reading = api.runs.StreamRunEvents(stream(run.id))
    await anext(aiter(reading))
    creating.cancel()
    reading.cancel()
    release.set()
    assert (await api.settled(run)).status == v1.RUN_STATUS_COMPLETED
    assert text_of(await api.answer(run)) == "To be continued."


async def test_stream_that_creates_its_run_can_be_taken_up_by_another(api: Api, script: Add) -> None:
    release = asyncio.Event()
    assistant = await api.assistant(script(text("To be ").then(Wait(release)).then(*text("continued.").steps)).model)
    create = v1.CreateRunRequest(thread_id=(await api.thread()).id, assistant_id=assistant.id)
    seen = []
    async with aclosing(events_of(api.runs.CreateRunStream(v1.CreateRunStreamRequest(run=create)))) as events:
        async for event in events:
            seen.append(event)
            if event_name(event) == "message.delta":
                break
    release.set()
    seen += await api.events(seen[0].run.id, seen[-1].sequence)
    assert seen == await api.stored_events(seen[0].run.id)
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))


async def test_all_readers_see_the_same_whenever_they_come(api: Api, script: Add) -> None:
    release = asyncio.Event()
    run = await api.run(script(text(*("word " * 50)).then(Wait(release)).then(*text("end.").steps)).model)
    early = [asyncio.create_task(api.events(run.id)) for _ in range(5)]
    await api.until(run.id, is_event("message.delta"))
    late = [asyncio.create_task(api.events(run.id)) for _ in range(5)]
    release.set()
    seen = await asyncio.gather(*early, *late)
    assert all(events == seen[0] for events in seen)
    assert seen[0] == await api.stored_events(run.id)
    assert event_name(seen[0][-1]) == "run.completed"


async def test_reader_that_stands_still_does_not_hold_the_run_back(api: Api) -> None:
    # Far more than the channel and the server hold back for one stream.
    chatty = "for number in range(30_000):\n    print(f'{number:06} ' + 'x' * 20)"
    run = await api.run(text=f"```python\n{chatty}\n```")
    idle = api.runs.StreamRunEvents(stream(run.id))
    await anext(aiter(idle))
    assert (await api.settled(run)).status == v1.RUN_STATUS_COMPLETED
    seen = [event async for event in events_of(idle)]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen == await api.stored_events(run.id)
    (made,) = await api.code_calls(run)
    assert printed(made).count("\n") == 30_000


async def test_stream_stays_open_while_the_client_is_asked(api: Api, script: Add) -> None:
    run = await api.run(script(call("lookup", {}), text("Thanks.")).model, LOOKUP)
    reading = asyncio.create_task(api.events(run.id))
    asked = (await api.settled(run)).required_action.submit_tool_outputs.tool_calls[0]
    outputs = [v1.ToolOutput(tool_call_id=asked.id, output="x")]
    await api.runs.SubmitToolOutputs(v1.SubmitToolOutputsRequest(run_id=run.id, tool_outputs=outputs))
    names = [event_name(event) for event in await reading]
    assert names.count("run.requires_action") == 1
    assert names[-1] == "run.completed"


async def test_output_is_seen_while_the_code_runs(api: Api) -> None:
    # The code does not end before the reader has seen its first line: only the reader ends it.
    run = await api.run(text="```python\nprint('now')\nwhile True: pass\n```")
    async with asyncio.timeout(20):
        seen = await api.until(run.id, prints("now"))
    assert "run.step.completed" not in [event_name(event) for event in seen]
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))


async def test_wait_ends_when_the_run_needs_its_client(api: Api, script: Add) -> None:
    release = asyncio.Event()
    run = await api.run(script(call("lookup", {}).first(Wait(release))).model, LOOKUP)
    waiting = [asyncio.ensure_future(api.settled(run)) for _ in range(3)]
    release.set()
    assert {(await waited).status for waited in waiting} == {v1.RUN_STATUS_REQUIRES_ACTION}
