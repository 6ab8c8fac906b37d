"""The text and the files of a message."""

from collections.abc import Callable

from afarensis import v1


def message_text(message: v1.Message) -> str:
    """The text of a message, part by part on lines of their own; a refusal counts as text."""
    return "\n".join(_part_text(part) for part in message.content if part.WhichOneof("content") in ("text", "refusal"))


def _part_text(part: v1.MessageContent) -> str:
    return part.text.value if part.WhichOneof("content") == "text" else part.refusal.value


def message_file_ids(message: v1.Message) -> list[str]:
    """The ids of all files of a message, each once: images, files that the text cites, and attachments."""
    ids: dict[str, None] = {}
    for part in message.content:
        if part.WhichOneof("content") == "image_file":
            ids[part.image_file.file_id] = None
        for annotation in part.text.annotations:
            if annotation.WhichOneof("annotation") == "file_path":
                ids[annotation.file_path.file_id] = None
    ids.update(dict.fromkeys(attachment.file_id for attachment in message.attachments))
    return list(ids)


def resolve_annotations(text: v1.TextContent, link: Callable[[str], str | None]) -> str:
    """The text with each cited file, like ``sandbox:/mnt/data/summary.csv``, replaced by what ``link`` makes of its id.

    ``link`` may answer None to leave a place as it is. Indexes of annotations count code points, as Python does.
    """
    resolved = text.value
    # From the end, so that the indexes of what comes before stay true.
    for annotation in sorted(text.annotations, key=lambda annotation: annotation.start_index, reverse=True):
        if annotation.WhichOneof("annotation") == "file_path":
            replacement = link(annotation.file_path.file_id)
            if replacement is not None:
                resolved = resolved[: annotation.start_index] + replacement + resolved[annotation.end_index :]
    return resolved


def resolved_text(message: v1.Message, link: Callable[[str], str | None]) -> str:
    """Like message_text, with annotations resolved as in resolve_annotations."""
    resolved = v1.Message()
    resolved.CopyFrom(message)
    for part in resolved.content:
        if part.WhichOneof("content") == "text":
            part.text.value = resolve_annotations(part.text, link)
    return message_text(resolved)
