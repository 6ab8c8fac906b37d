"""Runs over HTTP: polled, answered, and followed at both edges."""

import asyncio
from collections.abc import Callable

import httpx2
import pytest
from openai import AsyncOpenAI

from afarensis import v1
from tests.support.api import Api
from tests.support.scripted_model import Wait, call, code, error, text
from tests.support.scripts import Script

from .streamed_runs import TOOL, assistant, events_of, streamed, thread

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


async def test_run_has_all_its_fields_and_says_when_to_look_again(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    rest = asyncio.Event()
    model = script(text("So").then(Wait(rest))).model
    assistant_id, thread_id = await assistant(http, model), await thread(http)
    body = {
        "assistant_id": assistant_id,
        "additional_instructions": "Be brief.",
        "max_completion_tokens": 300,
        "truncation_strategy": {"type": "last_messages", "last_messages": 3},
        "tool_choice": {"type": "code_interpreter"},
        "metadata": {"a": "b"},
    }
    answer = await http.post(f"/threads/{thread_id}/runs", json=body)
    assert answer.headers["openai-poll-after-ms"] == "250"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"].isdecimal()
    run = answer.json()
    assert run.pop("id").startswith("run_")
    assert run.pop("expires_at") - run.pop("created_at") == 600
    assert run == {
        "object": "thread.run",
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "status": "queued",
        "started_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": model,
        "instructions": "Be brief.",
        "tools": [{"type": "code_interpreter"}],
        "tool_resources": {"code_interpreter": {"file_ids": []}},
        "metadata": {"a": "b"},
        "temperature": 1.0,
        "top_p": 1.0,
        "reasoning_effort": None,
        "max_completion_tokens": 300,
        "max_prompt_tokens": None,
        "truncation_strategy": {"type": "last_messages", "last_messages": 3},
        "incomplete_details": None,
        "usage": None,
        "response_format": "auto",
        "tool_choice": {"type": "code_interpreter"},
        "parallel_tool_calls": True,
    }
    path = f"/threads/{thread_id}/runs/{answer.json()['id']}"
    locked = await http.post(f"/threads/{thread_id}/messages", json={"role": "user", "content": "more"})
    text_ = f"Can't add messages to {thread_id} while a run {answer.json()['id']} is active."
    assert (locked.status_code, locked.json()["error"]) == (
        400,
        {"message": text_, "type": "invalid_request_error", "param": None, "code": None},
    )
    assert (await http.post(f"{path}/cancel")).json()["status"] in ("cancelling", "cancelled")
    rest.set()
    again = await http.post(f"{path}/cancel")
    assert again.status_code in (200, 400)


async def test_outputs_that_do_not_fit_are_refused_in_the_words_of_old(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    model = script(call("weather", {})).model
    path = f"/threads/{await thread(http)}/runs"
    run = (await http.post(path, json={"assistant_id": await assistant(http, model, TOOL)})).json()
    async with asyncio.timeout(30):
        while run["status"] != "requires_action":
            run = (await http.get(f"{path}/{run['id']}")).json()
    answer = await http.post(f"{path}/{run['id']}/submit_tool_outputs", json={"tool_outputs": []})
    assert answer.status_code == 400
    (asked,) = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert answer.json()["error"]["message"] == f"Expected tool outputs for call_ids ['{asked['id']}'], got []"
    done = await http.post(f"{path}/{run['id']}/cancel")
    assert done.json()["status"] == "cancelled"
    late = await http.post(
        f"{path}/{run['id']}/submit_tool_outputs", json={"tool_outputs": [{"tool_call_id": asked["id"], "output": "x"}]}
    )
    assert late.json()["error"]["message"] == 'Runs in status "cancelled" do not accept tool outputs.'


async def test_run_answers_in_the_form_that_it_asks_for_and_else_in_the_assistants(
    http: httpx2.AsyncClient, script: Callable[..., Script]
) -> None:
    wanted = {"type": "json_object"}
    own: list[object] = ["auto", {"type": "text"}]
    asked = script(*(text("In prose.") for _ in own), text('{"n": 1}'), text('{"n": 1}'))
    settings = {"model": asked.model, "response_format": wanted}
    body = {"assistant_id": (await http.post("/assistants", json=settings)).json()["id"], "stream": True}
    for form in own:
        path = f"/threads/{await thread(http)}/runs"
        run = (await streamed(http, path, {**body, "response_format": form}))[-2]
        assert (run.name, run.data["response_format"]) == ("thread.run.completed", form), run.data["last_error"]
    for more in ({}, {"response_format": None}):
        run = (await streamed(http, f"/threads/{await thread(http)}/runs", {**body, **more}))[-2]
        assert (run.name, run.data["response_format"]) == ("thread.run.completed", wanted), run.data["last_error"]
    assert [request.body.get("response_format") for request in asked.requests] == [None, None, wanted, wanted]


async def test_failed_run_tells_why(sdk: AsyncOpenAI, script: Callable[..., Script]) -> None:
    model = script(error(401, "wrong key", {"x-should-retry": "false"})).model
    made = await sdk.beta.assistants.create(model=model)
    begun = await sdk.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    run = await sdk.beta.threads.runs.create_and_poll(thread_id=begun.id, assistant_id=made.id)
    assert run.status == "failed"
    assert run.last_error is not None
    assert run.last_error.code == "server_error"
    assert "refused the server's credentials" in run.last_error.message


async def test_run_of_one_edge_is_followed_on_the_other(
    http: httpx2.AsyncClient, api: Api, script: Callable[..., Script]
) -> None:
    model = script(code("print(1)"), text("Done.")).model
    thread_id = await thread(http)
    run = (
        await api.runs.CreateRun(v1.CreateRunRequest(thread_id=thread_id, assistant_id=await assistant(http, model)))
    ).run
    async with http.stream("GET", f"/threads/{thread_id}/runs/{run.id}/events") as response:
        over_http = [event async for event in events_of(response)]
    over_grpc = [
        item.event
        async for item in api.runs.StreamRunEvents(v1.StreamRunEventsRequest(run_id=run.id))
        if item.HasField("event")
    ]
    told = [event.id for event in over_http if event.id]
    # One by one and in the same order, but for what the old wire has no words for.
    known = [f"{run.id}:{event.sequence}" for event in over_grpc]
    assert [event_id for event_id in known if event_id in told] == told
    assert told[-1] == known[-1]
    steps = (await http.get(f"/threads/{thread_id}/runs/{run.id}/steps", params={"order": "asc"})).json()["data"]
    assert [step["type"] for step in steps] == ["tool_calls", "message_creation"]
    listed = (await http.get(f"/threads/{thread_id}/runs")).json()
    assert [one["id"] for one in listed["data"]] == [run.id]
