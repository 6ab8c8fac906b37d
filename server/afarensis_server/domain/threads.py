"""Threads and their messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .tools import Tool, ToolResources


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation, with the files that all its runs see."""

    id: str
    project: str
    create_time: datetime
    tool_resources: ToolResources = ToolResources()
    metadata: Mapping[str, str] = field(default_factory=dict)


class MessageRole(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class MessageStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    INCOMPLETE = "incomplete"
    COMPLETED = "completed"


class MessageIncompleteReason(StrEnum):
    CONTENT_FILTER = "content_filter"
    MAX_TOKENS = "max_tokens"
    RUN_CANCELLED = "run_cancelled"
    RUN_EXPIRED = "run_expired"
    RUN_FAILED = "run_failed"


@dataclass(frozen=True, slots=True)
class FilePathAnnotation:
    """A place in a text that names a generated file, such as ``sandbox:/mnt/data/x.csv``.

    ``start_index`` and ``end_index`` count Unicode code points; the end is exclusive.
    """

    text: str
    start_index: int
    end_index: int
    file_id: str
    type: Literal["file_path"] = "file_path"


@dataclass(frozen=True, slots=True)
class TextContent:
    value: str
    annotations: tuple[FilePathAnnotation, ...] = ()
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ImageFileContent:
    file_id: str
    #: ``auto``, ``low`` or ``high``; None when not given.
    detail: str | None = None
    type: Literal["image_file"] = "image_file"


@dataclass(frozen=True, slots=True)
class ImageUrlContent:
    url: str
    detail: str | None = None
    type: Literal["image_url"] = "image_url"


@dataclass(frozen=True, slots=True)
class RefusalContent:
    refusal: str
    type: Literal["refusal"] = "refusal"


MessageContent = Annotated[
    TextContent | ImageFileContent | ImageUrlContent | RefusalContent, Field(discriminator="type")
]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file sent with a message, and the tools that are to see it."""

    file_id: str
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    project: str
    thread_id: str
    create_time: datetime
    role: MessageRole
    status: MessageStatus
    content: tuple[MessageContent, ...]
    attachments: tuple[Attachment, ...] = ()
    assistant_id: str | None = None
    run_id: str | None = None
    incomplete_reason: MessageIncompleteReason | None = None
    complete_time: datetime | None = None
    incomplete_time: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
