"""Small things that all objects have."""

from datetime import datetime
from enum import StrEnum

#: What the original gave for a temperature and a `top_p` where nothing had been said.
SAMPLING = 1.0
#: A JSON object that goes to a client.
Json = dict[str, object]


class Shape(StrEnum):
    """The version of the Assistants API that a program was written for: ``OpenAI-Beta: assistants=v1``."""

    V1 = "v1"
    V2 = "v2"


def seconds(time: datetime | None) -> int | None:
    """Seconds since 1970."""
    return None if time is None else int(time.timestamp())


def deleted(object_id: str, kind: str) -> Json:
    return {"id": object_id, "object": kind, "deleted": True}
