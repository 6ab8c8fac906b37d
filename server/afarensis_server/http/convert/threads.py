"""Threads and messages."""

from collections.abc import Sequence

from ...domain.threads import (
    Attachment,
    FilePathAnnotation,
    ImageFileContent,
    ImageUrlContent,
    Message,
    MessageContent,
    MessageRole,
    RefusalContent,
    TextContent,
    Thread,
)
from ...domain.tools import CodeInterpreterTool
from ...threads.service import MessageFields, ThreadFields
from ..fields import Fields
from .tools import resources_json, resources_value, tool_json, tools_value
from .values import Json, Shape, seconds

_PARTS = ("text", "image_file", "image_url")


def thread_json(thread: Thread, shape: Shape) -> Json:
    found: Json = {"id": thread.id, "object": "thread", "created_at": seconds(thread.create_time)}
    if shape is Shape.V2:
        found["tool_resources"] = resources_json(thread.tool_resources)
    return found | {"metadata": dict(thread.metadata)}


def message_json(message: Message, shape: Shape) -> Json:
    reason = message.incomplete_reason
    found: Json = {
        "id": message.id,
        "object": "thread.message",
        "created_at": seconds(message.create_time),
        "assistant_id": message.assistant_id,
        "thread_id": message.thread_id,
        "run_id": message.run_id,
        "status": message.status.value,
        "incomplete_details": None if reason is None else {"reason": reason.value},
        "incomplete_at": seconds(message.incomplete_time),
        "completed_at": seconds(message.complete_time),
        "role": message.role.value,
        "content": [content_json(part) for part in message.content],
    }
    if shape is Shape.V1:
        found["file_ids"] = [attachment.file_id for attachment in message.attachments]
    else:
        found["attachments"] = [_attachment_json(attachment) for attachment in message.attachments]
    return found | {"metadata": dict(message.metadata)}


def content_json(part: MessageContent) -> Json:
    match part:
        case TextContent():
            annotations = [annotation_json(annotation) for annotation in part.annotations]
            return {"type": "text", "text": {"value": part.value, "annotations": annotations}}
        case ImageFileContent():
            return {"type": "image_file", "image_file": {"file_id": part.file_id, "detail": part.detail or "auto"}}
        case ImageUrlContent():
            return {"type": "image_url", "image_url": {"url": part.url, "detail": part.detail or "auto"}}
        case RefusalContent():
            return {"type": "refusal", "refusal": part.refusal}


def annotation_json(annotation: FilePathAnnotation) -> Json:
    return {
        "type": "file_path",
        "text": annotation.text,
        "start_index": annotation.start_index,
        "end_index": annotation.end_index,
        "file_path": {"file_id": annotation.file_id},
    }


def _attachment_json(attachment: Attachment) -> Json:
    return {"file_id": attachment.file_id, "tools": [tool_json(tool) for tool in attachment.tools]}


def thread_fields(fields: Fields, *, messages: bool) -> tuple[ThreadFields, list[MessageFields]]:
    """The fields of a thread, and its first ``messages`` where there may be some. Nothing is finished or raised."""
    given = ThreadFields()
    if (resources := resources_value(fields)) is not None:
        given["tool_resources"] = resources
    if fields.has("metadata"):
        given["metadata"] = fields.metadata()
    new = messages_value(fields, "messages") if messages else []
    fields.finish()
    return given, new


def messages_value(fields: Fields, name: str) -> list[MessageFields]:
    """The messages in a field."""
    return [message_fields(message) for message in fields.objects(name) or ()]


def message_fields(fields: Fields) -> MessageFields:
    """The fields of a message to create."""
    role = fields.choice("role", ("user", "assistant"))
    if role is None and fields.raw("role") is None:
        fields.required("role")
    given = MessageFields(role=MessageRole(role or "user"), metadata=fields.metadata())
    content = fields.raw("content")
    if isinstance(content, str):
        given["text"] = content
    elif isinstance(content, list):
        parts = [_part_value(part) for part in fields.objects("content") or ()]
        given["content"] = tuple(part for part in parts if part is not None)
    elif content is not None:
        fields.mistyped("content", "one of a string or array of objects")
    if content in (None, "", []):
        fields.required("content")
    given["attachments"] = _attachments_value(fields)
    fields.finish()
    return given


def _part_value(fields: Fields) -> MessageContent | None:
    kind = fields.choice("type", _PARTS)
    part: MessageContent | None = None
    if kind == "text":
        part = _text_value(fields)
    elif kind is not None:
        nested = fields.nested(kind)
        if nested is None:
            fields.required(kind)
        else:
            detail = nested.string("detail")
            if kind == "image_file":
                part = ImageFileContent(nested.string("file_id") or "", detail)
            else:
                part = ImageUrlContent(nested.string("url") or "", detail)
            nested.finish()
    elif fields.raw("type") is None:
        fields.required("type")
    fields.finish()
    return part


def _text_value(fields: Fields) -> TextContent | None:
    text = fields.raw("text")
    if isinstance(text, dict):
        # As the API itself writes it: programs copy messages.
        nested = fields.nested("text")
        assert nested is not None
        value = nested.string("value") or ""
        nested.raw("annotations")
        nested.finish()
        return TextContent(value)
    value = fields.string("text") or ""
    return TextContent(value)


def _attachments_value(fields: Fields) -> Sequence[Attachment]:
    attachments = [_attachment_value(attachment) for attachment in fields.objects("attachments") or ()]
    return [*attachments, *(Attachment(file_id) for file_id in fields.strings("file_ids") or ())]


def _attachment_value(fields: Fields) -> Attachment:
    attachment = Attachment(fields.string("file_id") or "", tools_value(fields) or (CodeInterpreterTool(),))
    fields.finish()
    return attachment
