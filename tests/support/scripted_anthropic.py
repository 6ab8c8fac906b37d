"""An endpoint that speaks Anthropic's Messages API, and answers by script: real HTTP, and real faults.

    async with ScriptedAnthropic([code("1/0"), text("It ", "failed.")]) as endpoint:
        ...  # give endpoint.base_url to the server

Turns are those of `scripted_model`, made by the functions here; its steps (`Wait`, `Cut`, `Raw`...) stand between
their events.
"""

import json
from collections.abc import Mapping

from tests.support.scripted_model import Raw, ScriptedModel, Step, Turn

#: What a message begins with when its turn does not say.
USAGE = {"input_tokens": 100, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}


class ScriptedAnthropic(ScriptedModel):
    """The endpoint; an async context manager."""

    path = "/v1/messages"
    end = b""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"


def event(kind: str, **fields: object) -> Raw:
    """One server-sent event, as the API names and numbers them."""
    return Raw(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())


def start(usage: Mapping[str, object] = USAGE) -> tuple[Step, ...]:
    message: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
    }
    return (event("message_start", message={**message, "usage": dict(usage)}), event("ping"))


def end(stop_reason: str, output_tokens: int = 20, **usage: object) -> tuple[Step, ...]:
    told = {"stop_reason": stop_reason, "stop_sequence": None}
    counted = {"output_tokens": output_tokens, **usage}
    return (event("message_delta", delta=told, usage=counted), event("message_stop"))


def text_block(index: int, *pieces: str) -> tuple[Step, ...]:
    return (
        event("content_block_start", index=index, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece}) for piece in pieces),
        event("content_block_stop", index=index),
    )


def thinking_block(index: int, *pieces: str) -> tuple[Step, ...]:
    begun = {"type": "thinking", "thinking": "", "signature": ""}
    signature = {"type": "signature_delta", "signature": "c2lnbmVk"}
    return (
        event("content_block_start", index=index, content_block=begun),
        *(
            event("content_block_delta", index=index, delta={"type": "thinking_delta", "thinking": piece})
            for piece in pieces
        ),
        event("content_block_delta", index=index, delta=signature),
        event("content_block_stop", index=index),
    )


def call_block(index: int, name: str, arguments: Mapping[str, object], call_id: str = "toolu_1") -> tuple[Step, ...]:
    """A call, its arguments in three fragments; none when there are no arguments."""
    written = json.dumps(arguments) if arguments else ""
    size = max(1, -(-len(written) // 3))
    pieces = ["", *(written[place : place + size] for place in range(0, len(written), size))]
    return (
        event(
            "content_block_start",
            index=index,
            content_block={"type": "tool_use", "id": call_id, "name": name, "input": {}},
        ),
        *(
            event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece})
            for piece in pieces
        ),
        event("content_block_stop", index=index),
    )


def message(*steps: Step) -> Turn:
    """An answer of these steps."""
    return Turn(steps, finish=None, usage=None)


def text(*pieces: str, stop_reason: str = "end_turn") -> Turn:
    """An answer in words."""
    return message(*start(), *text_block(0, *pieces), *end(stop_reason))


def call(name: str, arguments: Mapping[str, object]) -> Turn:
    """An answer that is one call."""
    return message(*start(), *call_block(0, name, arguments), *end("tool_use"))


def code(source: str) -> Turn:
    """A call of the code interpreter."""
    return call("code_interpreter", {"code": source})


def error(status: int, kind: str, said: str, headers: Mapping[str, str] | None = None) -> Turn:
    """An error as the API sends them."""
    body = {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_1"}
    return Turn(status=status, headers=headers or {}, body=body)


def error_event(kind: str, said: str) -> Raw:
    """An error within a stream."""
    return event("error", error={"type": kind, "message": said})
