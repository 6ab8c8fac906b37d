"""Streams of runs over HTTP: in order, left, resumed, refused, and broken off."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import APIError, AsyncAssistantEventHandler, AsyncOpenAI

from tests.support.scripted_model import Delta, ScriptedModel, Wait, call, code, text
from tests.support.scripts import Script
from tests.support.server_process import ServerProcess

from .streamed_runs import TOOL, Event, assistant, events_of, streamed, thread

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


async def test_stream_tells_a_run_in_the_documented_order(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    source = "import sys\nfor n in range(2):\n    print(n, flush=True)\nprint('late', file=sys.stderr)\n1/0"
    model = script(code(source), text("It ", "failed.")).model
    body = {"assistant_id": await assistant(http, model), "stream": True}
    events = await streamed(http, f"/threads/{await thread(http)}/runs", body)
    names = [event.name for event in events]
    plain = [name for index, name in enumerate(names) if index == 0 or name != names[index - 1]]
    assert plain == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
        "thread.run.step.completed",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
        "done",
    ]
    assert events[-1].data == "[DONE]"
    calls = [
        event.data["delta"]["step_details"]["tool_calls"][0]
        for event in events
        if event.name == "thread.run.step.delta"
    ]
    assert [made["index"] for made in calls] == [0] * len(calls)
    # Clients add up texts: an id that came twice would be none.
    assert [made["id"].startswith("call_") for made in calls if "id" in made] == [True]
    assert "id" in calls[0]
    assert calls[0]["code_interpreter"] == {"input": "", "outputs": []}
    assert "".join(made["code_interpreter"].get("input", "") for made in calls) == source
    logs: dict[int, str] = {}
    for made in calls:
        for output in made["code_interpreter"].get("outputs", ()):
            assert output["type"] == "logs"
            logs[output["index"]] = logs.get(output["index"], "") + output["logs"]
    assert [logs[index] for index in range(2)] == ["0\n1\n", "late\n"]
    assert logs[2].endswith("ZeroDivisionError: division by zero")
    (step,) = (
        event.data for event in events if event.name == "thread.run.step.completed" and "tool" in event.data["type"]
    )
    stored = step["step_details"]["tool_calls"][0]["code_interpreter"]["outputs"]
    assert [output["logs"] for output in stored] == [logs[index] for index in range(3)]
    deltas = [event.data["delta"]["content"][0] for event in events if event.name == "thread.message.delta"]
    assert deltas[0]["text"]["annotations"] == []
    assert all("annotations" not in delta["text"] for delta in deltas[1:])
    assert "".join(delta["text"]["value"] for delta in deltas) == "It failed."


async def test_stream_is_not_silent_while_events_have_no_form_in_it(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    """Changes of files have none, nor has the end of code. A proxy that sees nothing for long closes the connection."""
    model = script(code("open('made.txt', 'w').write('x')"), text("Made.")).model
    body = {"assistant_id": await assistant(http, model), "stream": True}
    async with http.stream("POST", f"/threads/{await thread(http)}/runs", json=body) as response:
        lines = [line async for line in response.aiter_lines()]
    # One begins the stream; the next would come after 15 seconds without any event.
    assert lines.count(": still here") > 1
    assert "event: thread.run.completed" in lines


async def test_sdk_streams_a_run_of_code_and_passes_over_what_keeps_the_connection_alive(
    sdk: AsyncOpenAI, script: Callable[..., Script]
) -> None:
    model = script(code("print(6 * 7)\nopen('made.txt', 'w').close()"), text("Made.")).model
    made = await sdk.beta.assistants.create(model=model, tools=[{"type": "code_interpreter"}])
    begun = await sdk.beta.threads.create(messages=[{"role": "user", "content": "Make it."}])
    async with sdk.beta.threads.runs.stream(thread_id=begun.id, assistant_id=made.id) as stream:
        names = [event.event async for event in stream]
    assert names[-1] == "thread.run.completed"
    (step, _) = await stream.get_final_run_steps()
    assert step.step_details.type == "tool_calls"
    (made_call,) = step.step_details.tool_calls
    assert made_call.type == "code_interpreter"
    assert [output.logs for output in made_call.code_interpreter.outputs if output.type == "logs"] == ["42\n"]
    assert [part.text.value for part in (await stream.get_final_messages())[0].content if part.type == "text"] == [
        "Made."
    ]


async def test_new_thread_comes_first_in_its_stream(http: httpx2.AsyncClient, script: Callable[..., Script]) -> None:
    body = {
        "assistant_id": await assistant(http, script(text("Hello.")).model),
        "thread": {"messages": [{"role": "user", "content": "Hi"}], "metadata": {"of": "both"}},
        "stream": True,
    }
    events = await streamed(http, "/threads/runs", body)
    assert [event.name for event in events[:2]] == ["thread.created", "thread.run.created"]
    assert (events[0].data["object"], events[0].data["metadata"]) == ("thread", {"of": "both"})
    assert events[1].data["thread_id"] == events[0].data["id"]


async def test_client_that_left_goes_on_where_it_was(http: httpx2.AsyncClient, script: Callable[..., Script]) -> None:
    rest = asyncio.Event()
    first = text("One", " two").then(Wait(rest), Delta({"content": " three"}))
    body = {"assistant_id": await assistant(http, script(first).model), "stream": True}
    path = f"/threads/{await thread(http)}/runs"
    seen: list[Event] = []
    async with http.stream("POST", path, json=body) as response, aclosing(events_of(response)) as events:  # type: ignore[type-var]
        async for event in events:
            seen.append(event)
            if event.name == "thread.message.delta":
                break
    rest.set()
    run_id = seen[0].data["id"]
    more = await streamed(http, path, body, **{"Last-Event-ID": seen[-1].id})
    said = [*seen, *more]
    assert [event.id for event in said if event.id] == [f"{run_id}:{number + 1}" for number in range(len(said) - 1)]
    words = [
        event.data["delta"]["content"][0]["text"]["value"] for event in said if event.name == "thread.message.delta"
    ]
    assert "".join(words) == "One two three"
    assert (said[-2].name, said[-1].name) == ("thread.run.completed", "done")
    async with http.stream("GET", f"{path}/{run_id}/events", headers={"Last-Event-ID": seen[-1].id}) as response:
        assert [event.id for event in [event async for event in events_of(response)]] == [event.id for event in more]


async def test_stream_beyond_the_limit_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    rest = asyncio.Event()
    async with ScriptedModel([text("One").first(Wait(rest)), text("Two")]) as model:
        settings = {"openai.base_url": model.base_url, "http.listen": "127.0.0.1:0", "server.max_streams": 1}
        with ServerProcess(tmp_path, settings) as server:
            async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as http:
                file = await http.post("/files", data={"purpose": "assistants"}, files={"file": ("a", b"x")})
                content = f"/files/{file.json()['id']}/content"
                body = {"assistant_id": await assistant(http, "scripted"), "stream": True}
                runs, others = [f"/threads/{await thread(http)}/runs" for _ in range(2)]
                async with http.stream("POST", runs, json=body) as first, aclosing(events_of(first)) as events:  # type: ignore[type-var]
                    run = (await anext(events)).data
                    refused = [
                        await http.post(others, json=body),
                        await http.post("/threads/runs", json=body),
                        await http.get(f"{runs}/{run['id']}/events"),
                        await http.get(content),
                        await http.get("/containers/c/files/f/content"),
                    ]
                    for answer in refused:
                        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1"), answer.text
                        assert answer.headers["x-afarensis-reason"] == "TOO_MANY_CALLS"
                        assert answer.json()["error"]["type"] == "rate_limit_error"
                        assert "raise the limit server.max_streams" in answer.json()["error"]["message"]
                    assert (await http.get(others)).json()["data"] == []
                    rest.set()
                    assert [event.name async for event in events][-2:] == ["thread.run.completed", "done"]
                assert (await http.get(content)).content == b"x"
                assert (await streamed(http, others, body))[-2].name == "thread.run.completed"
            assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert [line["level"] for line in lines if line["level"] == "error"] == []
        told = [(line["path"], line["status"]) for line in lines if line["event"] == "http"]
        assert [status for path, status in told if path == f"/v1{others}"] == [429, 200, 200]


async def test_functions_are_answered_in_a_stream(sdk: AsyncOpenAI, script: Callable[..., Script]) -> None:
    model = script(call("weather", {"city": "Bern"}), text("Sunny.")).model
    made = await sdk.beta.assistants.create(model=model, tools=[TOOL])  # type: ignore[list-item]
    begun = await sdk.beta.threads.create(messages=[{"role": "user", "content": "How is the weather?"}])
    names: list[str] = []

    class Handler(AsyncAssistantEventHandler):
        async def on_event(self, event: Any) -> None:
            names.append(event.event)

    async with sdk.beta.threads.runs.stream(
        thread_id=begun.id, assistant_id=made.id, event_handler=Handler()
    ) as stream:
        await stream.until_done()
    run = await stream.get_final_run()
    assert run.status == "requires_action"
    assert run.required_action is not None
    (asked,) = run.required_action.submit_tool_outputs.tool_calls
    assert (asked.function.name, asked.function.arguments) == ("weather", '{"city": "Bern"}')
    assert names[-1] == "thread.run.requires_action"
    names.clear()
    async with sdk.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id,
        thread_id=begun.id,
        tool_outputs=[{"tool_call_id": asked.id, "output": "sunny"}],
        event_handler=Handler(),
    ) as stream:
        await stream.until_done()
    assert names[:3] == ["thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"]
    assert names[-1] == "thread.run.completed"
    (answer,) = await stream.get_final_messages()
    assert answer.content[0].type == "text"
    assert answer.content[0].text.value == "Sunny."


async def test_waiting_run_ends_a_resumed_stream_and_takes_outputs_that_did_not_arrive(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    model = script(call("weather", {}), text("Sunny.")).model
    path = f"/threads/{await thread(http)}/runs"
    body = {"assistant_id": await assistant(http, model, TOOL), "stream": True}
    seen = await streamed(http, path, body)
    run, last = seen[-2].data, seen[-2].id
    assert run["status"] == "requires_action"
    # All that it lost is the end.
    async with asyncio.timeout(10):
        assert [event.name for event in await streamed(http, path, body, **{"Last-Event-ID": last})] == ["done"]
    (asked,) = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    outputs = {"tool_outputs": [{"tool_call_id": asked["id"], "output": "sunny"}], "stream": True}
    submit = f"{path}/{run['id']}/submit_tool_outputs"
    more = await streamed(http, submit, outputs, **{"Last-Event-ID": last})
    assert (more[0].name, more[-2].name) == ("thread.run.step.completed", "thread.run.completed")
    # Once more: they were taken, and it is told the same.
    again = await streamed(http, submit, outputs, **{"Last-Event-ID": last})
    assert [event.id for event in again] == [event.id for event in more]
    ahead = await http.get(f"{path}/{run['id']}/events", headers={"Last-Event-ID": f"{run['id']}:9999"})
    assert ahead.status_code == 400


async def test_stream_goes_on_behind_a_call_that_was_answered(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    model = script(call("weather", {}), call("weather", {}), text("Sunny.")).model
    path = f"/threads/{await thread(http)}/runs"
    body = {"assistant_id": await assistant(http, model, TOOL), "stream": True}
    key = {"Idempotency-Key": path}
    told = (await streamed(http, path, body, **key))[:-1]
    run_id = told[0].data["id"]

    async def submit(asking: Event) -> list[Event]:
        (asked,) = asking.data["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = {"tool_outputs": [{"tool_call_id": asked["id"], "output": "sunny"}], "stream": True}
        return (await streamed(http, f"{path}/{run_id}/submit_tool_outputs", outputs))[:-1]

    async def follow(**headers: str) -> list[Event]:
        async with http.stream("GET", f"{path}/{run_id}/events", headers=headers) as response:
            return [event async for event in events_of(response)]

    async with asyncio.timeout(30):
        asking = told[-1]
        told += await submit(asking)
        assert [event.name for event in told].count("thread.run.requires_action") == 2
        # Where it waits, each ends; the first call is long over.
        done = Event("done", "[DONE]", "")
        assert await follow() == await streamed(http, path, body, **key) == [*told, done]
        # Outputs that were taken already change nothing, and there is nothing more to tell.
        assert await submit(asking) == []
        told += await submit(told[-1])
    assert told[-1].name == "thread.run.completed"
    assert await follow() == await streamed(http, path, body, **key) == [*told, done]
    assert await follow(**{"Last-Event-ID": told[1].id}) == [*told[2:], done]
    assert await streamed(http, path, body, **{"Last-Event-ID": told[1].id}) == [*told[2:], done]


async def test_stream_resumes_at_the_event_that_is_left_of_a_run_of_long_ago(tmp_path: Path) -> None:
    async with ScriptedModel([call("weather", {}), text("Sunny.")]) as model:
        settings = {"openai.base_url": model.base_url, "http.listen": "127.0.0.1:0"}
        with ServerProcess(tmp_path, settings) as server:
            async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as http:
                path = f"/threads/{await thread(http)}/runs"
                body = {"assistant_id": await assistant(http, "scripted", TOOL), "stream": True}
                key = {"Idempotency-Key": "once"}
                asking = (await streamed(http, path, body, **key))[-2]
                (asked,) = asking.data["required_action"]["submit_tool_outputs"]["tool_calls"]
                outputs = {"tool_outputs": [{"tool_call_id": asked["id"], "output": "sunny"}]}
                run = f"{path}/{asking.data['id']}"
                submit = f"{run}/submit_tool_outputs"
                *_, last_but_one, last, done = await streamed(http, submit, {**outputs, "stream": True})
                assert last.name == "thread.run.completed"
            assert server.stop() == 0
        with ServerProcess(tmp_path, {**settings, "events.keep_seconds": 0.2}) as server:
            async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as http:

                async def follow(last_id: str) -> httpx2.Response:
                    return await http.get(f"{run}/events", headers={"Last-Event-ID": last_id})

                async with asyncio.timeout(20):
                    while (await follow(asking.id)).status_code == 200:  # noqa: ASYNC110  nobody tells
                        await asyncio.sleep(0.05)
                assert [event async for event in events_of(await follow(last_but_one.id))] == [last, done]
                assert [event async for event in events_of(await follow(last.id))] == [done]
                resumed = await streamed(http, path, body, **{"Last-Event-ID": last_but_one.id})
                assert resumed == [last, done]
                # What was taken is still known, whatever is left of the events.
                again = await http.post(submit, json=outputs)
                assert (again.status_code, again.json()["status"]) == (200, "completed")
                assert await streamed(http, submit, {**outputs, "stream": True}) == [done]
                for gone in (await follow(asking.id), await http.post(path, json=body, headers=key)):
                    assert (gone.status_code, gone.headers["x-afarensis-reason"]) == (400, "EVENTS_TRIMMED")
                    assert f"the sequence {last.id.rpartition(':')[2]}" in gone.json()["error"]["message"]


async def test_stream_of_what_is_not_there_raises_in_the_sdk(sdk: AsyncOpenAI) -> None:
    begun = await sdk.beta.threads.create()
    with pytest.raises(APIError, match="No assistant found with id 'asst_none'"):
        await sdk.beta.threads.runs.create(thread_id=begun.id, assistant_id="asst_none", stream=True)


async def test_error_within_a_stream_is_raised_by_the_sdk_and_the_stream_goes_on_later(tmp_path: Path) -> None:
    async with ScriptedModel([text("One").then(Wait(asyncio.Event())), text("Two")]) as model:
        settings = {"openai.base_url": model.base_url, "http.listen": "127.0.0.1:0", "server.drain_seconds": 0}
        with ServerProcess(tmp_path, settings) as server:
            last = ""
            async with AsyncOpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client:
                made = await client.beta.assistants.create(model="scripted")
                begun = await client.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
                stream = await client.beta.threads.runs.create(thread_id=begun.id, assistant_id=made.id, stream=True)

                async def read() -> None:
                    nonlocal last
                    async for event in stream:
                        if event.event == "thread.run.created":
                            last = f"{event.data.id}:1"
                        if event.event == "thread.message.delta":
                            server.terminate()

                with pytest.raises(APIError, match="The server is shutting down"):
                    await read()
            assert server.wait() == 0
            server.start()
            body = {"assistant_id": made.id, "stream": True}
            async with httpx2.AsyncClient(base_url=server.base_url, timeout=60) as http:
                more = await streamed(http, f"/threads/{begun.id}/runs", body, **{"Last-Event-ID": last})
            assert (more[0].name, more[-2].name) == ("thread.run.queued", "thread.run.completed")
