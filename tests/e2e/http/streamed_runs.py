"""Runs over HTTP as tests make them, and their streams as they come."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: Any
    id: str


async def events_of(response: httpx2.Response) -> AsyncIterator[Event]:
    """The events of a stream, up to ``done``."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            data = fields["data"]
            yield Event(fields["event"], data if data == "[DONE]" else json.loads(data), fields.get("id", ""))
            fields = {}


async def streamed(http: httpx2.AsyncClient, path: str, body: object, **headers: str) -> list[Event]:
    async with http.stream("POST", path, json=body, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events_of(response)]


async def assistant(http: httpx2.AsyncClient, model: str, *tools: object) -> str:
    tools = tools or ({"type": "code_interpreter"},)
    made: dict[str, str] = (await http.post("/assistants", json={"model": model, "tools": tools})).json()
    return made["id"]


async def thread(http: httpx2.AsyncClient, words: str = "Go on.") -> str:
    body = {"messages": [{"role": "user", "content": words}]}
    made: dict[str, str] = (await http.post("/threads", json=body)).json()
    return made["id"]
