import pytest

from afarensis import v1 as pb
from afarensis_server.errors import InvalidFields, RequestMalformed
from afarensis_server.rpc.parsing import parse

_MARK = "@@"


def broken(raw: bytes) -> bytes:
    """The same message with what was a mark in place of valid text."""
    return raw.replace(_MARK.encode(), b"\xff\xfe")


def test_valid_request_is_parsed() -> None:
    request = pb.CreateFileRequest(filename="データ.csv", content=b"\xff\xfe")
    assert parse(pb.CreateFileRequest, request.SerializeToString()) == request


def test_text_that_is_not_utf8_is_named_by_its_field() -> None:
    raw = broken(pb.CreateFileRequest(filename=_MARK).SerializeToString())
    with pytest.raises(InvalidFields) as refused:
        parse(pb.CreateFileRequest, raw)
    (violation,) = refused.value.violations
    assert (violation.field, violation.reason) == ("filename", "INVALID_CHARACTER")
    assert violation.description == "Invalid 'filename': the text is not valid UTF-8."


def test_nested_text_is_named_by_its_whole_path() -> None:
    part = pb.MessageContent(text=pb.TextContent(value=_MARK))
    request = pb.CreateThreadRequest(
        messages=[pb.MessageInput(text="fine"), pb.MessageInput(content=[part])],
        metadata={_MARK: "v"},
    )
    with pytest.raises(InvalidFields) as refused:
        parse(pb.CreateThreadRequest, broken(request.SerializeToString()))
    fields = {violation.field for violation in refused.value.violations}
    assert fields == {"messages[1].content[0].text.value", "metadata[0].key"}


@pytest.mark.parametrize("raw", [b"\x0a\xff", b"\x0a", b"\xff" * 20, b"\x0a\x05ab"])
def test_bytes_that_are_no_message_are_malformed(raw: bytes) -> None:
    with pytest.raises(RequestMalformed, match=r"not a valid afarensis\.v1\.CreateFileRequest"):
        parse(pb.CreateFileRequest, raw)


def test_deep_nesting_is_refused_and_does_not_recurse_for_ever() -> None:
    raw = b""
    for _ in range(2_000):
        raw = b"\x0b" + raw + b"\x0c"
    with pytest.raises(RequestMalformed):
        parse(pb.CreateFileRequest, raw + b"\x0a\x02\xff\xfe")
