"""Assistants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .tools import ResponseFormat, Tool, ToolResources


@dataclass(frozen=True, slots=True)
class Assistant:
    """A model with instructions, tools and files. Optional fields are None when never set."""

    id: str
    project: str
    create_time: datetime
    model: str
    name: str | None = None
    description: str | None = None
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_resources: ToolResources = ToolResources()
    metadata: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None
    top_p: float | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
