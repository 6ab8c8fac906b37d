"""What a client may say when it creates threads and messages, and the limits of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit

from ..domain.files import File
from ..domain.threads import (
    Attachment,
    ImageFileContent,
    ImageUrlContent,
    MessageContent,
    MessageRole,
    RefusalContent,
    TextContent,
)
from ..domain.tools import CodeInterpreterTool, ToolResources
from ..validation import Reason, SharedLimits, Violations, check_file_ids, check_metadata, echo

FILE_IDS_PATH = "tool_resources.code_interpreter.file_ids"

_IMAGE_DETAILS = ("auto", "low", "high")


class ThreadFields(TypedDict, total=False):
    """The fields of a thread that clients set."""

    tool_resources: ToolResources
    metadata: Mapping[str, str]


class MessageFields(TypedDict, total=False):
    """The fields of a message that its creator gives: exactly one of ``text`` and ``content`` is required."""

    role: MessageRole
    #: Short for one text part.
    text: str
    content: Sequence[MessageContent]
    attachments: Sequence[Attachment]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """Limits of threads and messages; the defaults are the Assistants API's where it had one."""

    #: Messages of one thread.
    messages: int = 100_000
    #: Messages that a thread is created with.
    initial_messages: int = 100
    #: Characters of a text in a message.
    text_characters: int = 256_000
    #: Parts of the content of one message.
    content_parts: int = 100
    #: Files attached to one message.
    attachments: int = 20
    #: Files of one thread for the code interpreter, whether given with the thread or attached to its messages.
    code_interpreter_files: int = 20
    #: Characters of the address of an image.
    image_url_characters: int = 8_192
    #: Bytes of an image in a message.
    image_bytes: int = 20 * 1024 * 1024
    #: What an image in a message may be.
    image_media_types: tuple[str, ...] = ("image/png", "image/jpeg", "image/gif", "image/webp")
    shared: SharedLimits = SharedLimits()


def content_of(fields: MessageFields) -> tuple[MessageContent, ...]:
    if text := fields.get("text"):
        return (TextContent(text),)
    return tuple(fields.get("content", ()))


def check_thread(violations: Violations, fields: ThreadFields, limits: ThreadLimits) -> None:
    """Collect what is wrong with the fields of a thread."""
    file_ids = fields.get("tool_resources", ToolResources()).code_interpreter_file_ids
    check_file_ids(violations, FILE_IDS_PATH, file_ids, maximum=limits.code_interpreter_files)
    check_metadata(violations, "metadata", fields.get("metadata", {}))


def check_message(violations: Violations, fields: MessageFields, limits: ThreadLimits) -> None:
    """Collect what is wrong with a message, as far as that can be told without the files it names."""
    text, content = fields.get("text", ""), fields.get("content", ())
    if text and content:
        violations.add("text", Reason.INVALID_VALUE, f"Give either '{violations.path('text')}' or 'content', not both.")
    elif text:
        # The original had one field for both, and clients match on its name.
        violations.string("text", text, maximum=limits.text_characters, called="content")
    elif not content:
        text = f"Missing required parameter: '{violations.path('text')}' or 'content'."
        violations.add("content", Reason.REQUIRED, text)
    violations.count("content", content, maximum=limits.content_parts)
    for index, part in enumerate(content[: limits.content_parts]):
        _check_part(violations, f"content[{index}]", part, limits)
    attachments = fields.get("attachments", ())
    violations.count("attachments", attachments, maximum=limits.attachments)
    for index, attachment in enumerate(attachments[: limits.attachments]):
        _check_attachment(violations.under(f"attachments[{index}]"), attachment)
    check_metadata(violations, "metadata", fields.get("metadata", {}))


def _check_part(violations: Violations, field: str, part: MessageContent, limits: ThreadLimits) -> None:
    path = violations.path(field)
    match part:
        case TextContent():
            violations.string(f"{field}.text.value", part.value, maximum=limits.text_characters, required=True)
            if part.annotations:
                text = f"Invalid '{path}.text.annotations': only the server annotates text."
                violations.add(f"{field}.text.annotations", Reason.INVALID_VALUE, text)
        case ImageFileContent():
            if not part.file_id:
                violations.required(f"{field}.image_file.file_id")
            _check_detail(violations, f"{field}.image_file.detail", part.detail)
        case ImageUrlContent():
            _check_image_url(violations, f"{field}.image_url.url", part.url, limits)
            _check_detail(violations, f"{field}.image_url.detail", part.detail)
        case RefusalContent():
            text = f"Invalid '{path}.refusal': only a model refuses."
            violations.add(f"{field}.refusal", Reason.INVALID_VALUE, text)


def _check_detail(violations: Violations, field: str, detail: str | None) -> None:
    if detail is not None and detail not in _IMAGE_DETAILS:
        violations.unsupported(field, detail, _IMAGE_DETAILS)


def _check_image_url(violations: Violations, field: str, url: str, limits: ThreadLimits) -> None:
    violations.string(field, url, maximum=limits.image_url_characters, required=True)
    if not 0 < len(url) <= limits.image_url_characters:
        return
    try:
        parts = urlsplit(url)
        # Python drops line breaks and tabs from addresses; whoever fetches the image may not.
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        is_address = False
    if not is_address:
        text = f"Invalid '{violations.path(field)}': expected an address that begins with 'https://' or 'http://'."
        violations.add(field, Reason.INVALID_FORMAT, text)


def _check_attachment(violations: Violations, attachment: Attachment) -> None:
    if not attachment.file_id:
        violations.required("file_id")
    if not all(isinstance(tool, CodeInterpreterTool) for tool in attachment.tools):
        text = f"Invalid '{violations.path('tools')}': files can be given to the code interpreter only."
        violations.add("tools", Reason.INVALID_VALUE, text)


def check_image(violations: Violations, field: str, file: File, limits: ThreadLimits) -> None:
    """Check that a file can be shown to a model as an image."""
    path = violations.path(field)
    if file.media_type.partition(";")[0].strip().lower() not in limits.image_media_types:
        types = ", ".join(limits.image_media_types)
        text = f"Invalid '{path}': file '{file.id}' is of type '{echo(file.media_type)}'. Expected an image: {types}."
        violations.add(field, Reason.INVALID_VALUE, text)
    elif file.size_bytes > limits.image_bytes:
        violations.add(
            field,
            Reason.OUT_OF_RANGE_VALUE,
            f"Invalid '{path}': file '{file.id}' has {file.size_bytes} bytes. "
            f"Expected an image of at most {limits.image_bytes} bytes.",
        )
