import pytest

from afarensis_server.clock import now
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.domain.threads import (
    Attachment,
    FilePathAnnotation,
    ImageFileContent,
    ImageUrlContent,
    RefusalContent,
    TextContent,
)
from afarensis_server.domain.tools import FunctionTool
from afarensis_server.errors import FieldViolation, InvalidFields
from afarensis_server.threads.fields import MessageFields, ThreadLimits, check_image, check_message
from afarensis_server.validation import Violations

LIMITS = ThreadLimits()


def violations_of(fields: MessageFields) -> list[FieldViolation]:
    violations = Violations()
    check_message(violations, fields, LIMITS)
    return found_by(violations)


def found_by(violations: Violations) -> list[FieldViolation]:
    try:
        violations.check()
    except InvalidFields as refused:
        return list(refused.violations)
    return []


def reasons(fields: MessageFields) -> list[tuple[str, str]]:
    return [(violation.field, violation.reason) for violation in violations_of(fields)]


def test_message_without_content_is_refused() -> None:
    assert reasons({}) == reasons({"text": "", "content": ()}) == [("content", "REQUIRED")]


def test_message_without_content_is_told_both_ways_to_give_it() -> None:
    violations = Violations()
    check_message(violations.under("messages[0]"), {}, LIMITS)
    (violation,) = found_by(violations)
    assert violation.description == "Missing required parameter: 'messages[0].text' or 'content'."


def test_message_with_both_text_and_content_is_refused() -> None:
    assert reasons({"text": "a", "content": [TextContent("a")]}) == [("text", "INVALID_VALUE")]


def test_too_long_text_gets_the_words_that_clients_match_on() -> None:
    (violation,) = violations_of({"text": "x" * 256_001})
    assert violation.field == "text"
    assert violation.description == (
        "Invalid 'content': string too long. Expected a string with maximum length 256000, "
        "but got a string with length 256001 instead."
    )


@pytest.mark.parametrize(
    "fields",
    [
        MessageFields(text="x" * 256_000),
        MessageFields(content=[TextContent("a")] * 100),
        MessageFields(content=[ImageFileContent("file-a", "high"), ImageUrlContent("https://example.org/a.png")]),
        MessageFields(text="a", attachments=[Attachment("file-a")] * 20, metadata={"k": "v"}),
    ],
)
def test_message_at_its_limits_is_accepted(fields: MessageFields) -> None:
    assert reasons(fields) == []


def test_all_that_is_wrong_with_a_message_is_told() -> None:
    annotation = FilePathAnnotation("a", 0, 1, "file-a")
    fields = MessageFields(
        content=[
            TextContent(""),
            TextContent("a", (annotation,)),
            TextContent("x" * 256_001),
            ImageFileContent("", "sharp"),
            ImageUrlContent("data:image/png;base64,AAAA"),
            RefusalContent("no"),
        ],
        attachments=[Attachment(""), Attachment("file-a", (FunctionTool("f"),))],
        metadata={"k" * 65: "v"},
    )
    assert reasons(fields) == [
        ("content[0].text.value", "REQUIRED"),
        ("content[1].text.annotations", "INVALID_VALUE"),
        ("content[2].text.value", "STRING_TOO_LONG"),
        ("content[3].image_file.file_id", "REQUIRED"),
        ("content[3].image_file.detail", "INVALID_VALUE"),
        ("content[4].image_url.url", "INVALID_FORMAT"),
        ("content[5].refusal", "INVALID_VALUE"),
        ("attachments[0].file_id", "REQUIRED"),
        ("attachments[1].tools", "INVALID_VALUE"),
        ("metadata", "STRING_TOO_LONG"),
    ]


def test_parts_and_attachments_are_counted() -> None:
    fields = MessageFields(content=[TextContent("a")] * 101, attachments=[Attachment("file-a")] * 21)
    assert reasons(fields) == [("content", "TOO_MANY_ITEMS"), ("attachments", "TOO_MANY_ITEMS")]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "REQUIRED"),
        ("ftp://example.org/a.png", "INVALID_FORMAT"),
        ("https://", "INVALID_FORMAT"),
        ("//example.org/a.png", "INVALID_FORMAT"),
        ("https://[::1/a.png", "INVALID_FORMAT"),
        ("https://example.org/a\nb.png", "INVALID_FORMAT"),
        ("https://example.org/a b.png", "INVALID_FORMAT"),
        ("https://example.org/" + "a" * 8_192, "STRING_TOO_LONG"),
    ],
)
def test_what_is_not_the_address_of_an_image_is_refused(url: str, reason: str) -> None:
    assert reasons({"content": [ImageUrlContent(url)]}) == [("content[0].image_url.url", reason)]


@pytest.mark.parametrize(
    ("media_type", "size_bytes", "expected"),
    [
        ("image/png", 20 * 1024 * 1024, []),
        ("image/JPEG; q=1", 1, []),
        ("text/csv", 1, ["INVALID_VALUE"]),
        ("image/svg+xml", 1, ["INVALID_VALUE"]),
        ("image/png", 20 * 1024 * 1024 + 1, ["OUT_OF_RANGE_VALUE"]),
    ],
)
def test_only_images_that_models_can_see_are_images(media_type: str, size_bytes: int, expected: list[str]) -> None:
    file = File("file-a", "default", now(), "a", FilePurpose.VISION, size_bytes, "0" * 64, media_type)
    violations = Violations()
    check_image(violations, "content[0].image_file.file_id", file, LIMITS)
    assert [violation.reason for violation in found_by(violations)] == expected
