"""Threads and messages."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from afarensis import v1 as pb

from ...domain.threads import (
    Attachment,
    FilePathAnnotation,
    ImageFileContent,
    ImageUrlContent,
    Message,
    MessageContent,
    MessageIncompleteReason,
    MessageRole,
    MessageStatus,
    RefusalContent,
    TextContent,
    Thread,
)
from ...domain.tools import CodeInterpreterTool, Tool
from ...threads.service import MessageFields, ThreadFields
from ...validation import Reason, Violations
from .tools import tool_resources_message, tool_resources_value
from .values import enum_numbers, enum_value, inverse, timestamp_message

_ROLES = enum_numbers(pb.MessageRole, "MESSAGE_ROLE_", MessageRole)
_STATUSES = enum_numbers(pb.MessageStatus, "MESSAGE_STATUS_", MessageStatus)
_REASONS = enum_numbers(pb.MessageIncompleteReason, "MESSAGE_INCOMPLETE_REASON_", MessageIncompleteReason)
_DETAILS = {
    "auto": pb.IMAGE_DETAIL_AUTO,
    "low": pb.IMAGE_DETAIL_LOW,
    "high": pb.IMAGE_DETAIL_HIGH,
}
_DETAIL_NAMES = {number: name for name, number in _DETAILS.items()}


def thread_message(thread: Thread) -> pb.Thread:
    return pb.Thread(
        id=thread.id,
        create_time=timestamp_message(thread.create_time),
        tool_resources=tool_resources_message(thread.tool_resources),
        metadata=thread.metadata,
    )


def message_message(message: Message) -> pb.Message:
    reason = message.incomplete_reason
    return pb.Message(
        id=message.id,
        create_time=timestamp_message(message.create_time),
        thread_id=message.thread_id,
        role=_ROLES[message.role],
        status=_STATUSES[message.status],
        incomplete_details=None if reason is None else pb.MessageIncompleteDetails(reason=_REASONS[reason]),
        complete_time=timestamp_message(message.complete_time),
        incomplete_time=timestamp_message(message.incomplete_time),
        content=[content_message(part) for part in message.content],
        attachments=[_attachment_message(attachment) for attachment in message.attachments],
        assistant_id=message.assistant_id or "",
        run_id=message.run_id or "",
        metadata=message.metadata,
    )


def content_message(part: MessageContent) -> pb.MessageContent:
    match part:
        case TextContent():
            annotations = [annotation_message(annotation) for annotation in part.annotations]
            return pb.MessageContent(text=pb.TextContent(value=part.value, annotations=annotations))
        case ImageFileContent():
            return pb.MessageContent(image_file=image_file_message(part))
        case ImageUrlContent():
            return pb.MessageContent(image_url=image_url_message(part))
        case RefusalContent():
            return pb.MessageContent(refusal=pb.RefusalContent(value=part.refusal))


def image_file_message(part: ImageFileContent) -> pb.ImageFileContent:
    return pb.ImageFileContent(file_id=part.file_id, detail=_DETAILS[part.detail or "auto"])


def image_url_message(part: ImageUrlContent) -> pb.ImageUrlContent:
    return pb.ImageUrlContent(url=part.url, detail=_DETAILS[part.detail or "auto"])


def annotation_message(annotation: FilePathAnnotation) -> pb.Annotation:
    return pb.Annotation(
        text=annotation.text,
        start_index=annotation.start_index,
        end_index=annotation.end_index,
        file_path=pb.FilePathAnnotation(file_id=annotation.file_id),
    )


def _attachment_message(attachment: Attachment) -> pb.MessageAttachment:
    tools = [
        pb.TOOL_TYPE_CODE_INTERPRETER if isinstance(tool, CodeInterpreterTool) else pb.TOOL_TYPE_FUNCTION
        for tool in attachment.tools
    ]
    return pb.MessageAttachment(file_id=attachment.file_id, tools=tools)


def thread_fields(request: pb.CreateThreadRequest | pb.UpdateThreadRequest, names: AbstractSet[str]) -> ThreadFields:
    """The named fields of a request."""
    fields = ThreadFields()
    if "tool_resources" in names:
        fields["tool_resources"] = tool_resources_value(request.tool_resources)
    if "metadata" in names:
        fields["metadata"] = dict(request.metadata)
    return fields


def message_inputs(messages: Sequence[pb.MessageInput], path: str) -> list[MessageFields]:
    """The fields of messages to create together with something else; ``path`` is that of the list."""
    found = Violations()
    fields = [_message_fields(message, found.under(f"{path}[{index}]")) for index, message in enumerate(messages)]
    found.check()
    return fields


def message_fields(request: pb.CreateMessageRequest) -> MessageFields:
    """The fields of a message to create."""
    found = Violations()
    fields = _message_fields(request, found)
    found.check()
    return fields


def _message_fields(message: pb.CreateMessageRequest | pb.MessageInput, found: Violations) -> MessageFields:
    return MessageFields(
        role=enum_value(message.role, inverse(_ROLES), "role", found, MessageRole.USER) or MessageRole.USER,
        text=message.text,
        content=_content_value(message.content, found),
        attachments=_attachments_value(message.attachments, found),
        metadata=dict(message.metadata),
    )


def _content_value(parts: Sequence[pb.MessageContent], found: Violations) -> tuple[MessageContent, ...]:
    converted = (_content_part_value(part, f"content[{index}]", found) for index, part in enumerate(parts))
    return tuple(part for part in converted if part is not None)


def _content_part_value(part: pb.MessageContent, path: str, found: Violations) -> MessageContent | None:
    match part.WhichOneof("content"):
        case "text":
            if part.text.annotations:
                found.add(
                    f"{path}.text.annotations",
                    Reason.INVALID_VALUE,
                    f"Invalid '{path}.text.annotations': annotations cannot be created.",
                )
            return TextContent(part.text.value)
        case "image_file":
            detail = _detail_value(part.image_file.detail, f"{path}.image_file.detail", found)
            return ImageFileContent(part.image_file.file_id, detail)
        case "image_url":
            detail = _detail_value(part.image_url.detail, f"{path}.image_url.detail", found)
            return ImageUrlContent(part.image_url.url, detail)
        case "refusal":
            return RefusalContent(part.refusal.value)
        case _:
            found.add(
                path,
                Reason.REQUIRED,
                f"Missing required parameter: one of 'text', 'image_file' and 'image_url' in '{path}'.",
            )
    return None


def _detail_value(number: int, path: str, found: Violations) -> str | None:
    if number and number not in _DETAIL_NAMES:
        found.add(path, Reason.INVALID_VALUE, f"Invalid '{path}': {number} is not a value of this enum.")
    return _DETAIL_NAMES.get(pb.ImageDetail.ValueType(number))


def _attachments_value(messages: Iterable[pb.MessageAttachment], found: Violations) -> tuple[Attachment, ...]:
    return tuple(
        Attachment(message.file_id, _attached_tools(message, f"attachments[{index}].tools", found))
        for index, message in enumerate(messages)
    )


def _attached_tools(message: pb.MessageAttachment, path: str, found: Violations) -> tuple[Tool, ...]:
    if any(tool != pb.TOOL_TYPE_CODE_INTERPRETER for tool in message.tools):
        found.add(path, Reason.INVALID_VALUE, f"Invalid '{path}': only CODE_INTERPRETER can be given files.")
    return (CodeInterpreterTool(),)
