"""Reads forms: a file and what is said about it."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ..domain.files import UPLOAD_PURPOSES, FilePurpose
from ..files.service import UploadHead
from ..validation import Reason, Violations, echo
from .endpoint import Call, too_large
from .errors import Failure, Found, Refused

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("file", "purpose", _ANCHOR, _SECONDS)
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_CHUNK = 1024 * 1024


async def read_form(call: Call, file_bytes: int) -> FormData:
    """The parts of a form, a large one of them on the disk. To be closed. Raises Refused."""
    kind = call.request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        text = (
            f"Unsupported content type: '{kind[:100]}'. This API method only accepts 'multipart/form-data' requests. "
            "Please try again with a supported content type."
        )
        raise Refused(Failure(400, text, code="unsupported_content_type"))
    limit = file_bytes + call.limits.form_bytes

    async def limited() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in call.chunks():
            received += len(chunk)
            if received > limit:
                raise Refused(too_large(limit))
            yield chunk

    parser = _Parser(call.request.headers, limited(), max_files=4, max_fields=32, max_part_size=call.limits.form_bytes)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Refused(Failure(400, f"Could not parse multipart form: {error.message}", code="invalid_form")) from error
    except (UnicodeError, LookupError) as error:
        raise Refused(
            Failure(400, "Could not parse multipart form: its text is not UTF-8.", code="invalid_form")
        ) from error


def upload_of(form: FormData) -> tuple[UploadHead, UploadFile]:
    """A file, and what the form says about it. Raises Refused."""
    found = Found()
    for name in form:
        if name not in _FIELDS:
            found.add(echo(name), Reason.UNKNOWN, f"Unknown parameter: '{echo(name)}'.")
    content, purpose = form.get("file"), form.get("purpose")
    if not isinstance(content, UploadFile):
        found.required("file")
    if not purpose:
        found.required("purpose")
    elif purpose not in UPLOAD_PURPOSES:
        found.unsupported("purpose", str(purpose), UPLOAD_PURPOSES)
    seconds = _ttl(form, found)
    found.check()
    assert isinstance(content, UploadFile)
    media_type = content.content_type or ""
    # What SDKs say of any file is no news.
    media_type = "" if media_type == "application/octet-stream" else media_type
    return UploadHead(content.filename or "", FilePurpose(str(purpose)), media_type, ttl_seconds=seconds), content


def _ttl(form: FormData, found: Violations) -> int | None:
    """After how many seconds the file is to be deleted."""
    anchor, given = form.get(_ANCHOR), form.get(_SECONDS)
    if anchor not in (None, "created_at"):
        found.unsupported(_ANCHOR, str(anchor), ("created_at",))
    if given is None:
        if anchor is not None:
            found.required(_SECONDS)
        return None
    if isinstance(given, str) and _INTEGER.fullmatch(given):
        return int(given)
    text = f"Invalid type for '{_SECONDS}': expected an integer, but got '{echo(str(given))}' instead."
    found.add(_SECONDS, Reason.INVALID_TYPE, text)
    return None


def upload_in(form: FormData, name: str = "file") -> tuple[str, AsyncIterator[bytes]]:
    """The name and the content of the form's file, the only thing in it. Raises Refused."""
    found = Found()
    content = form.get(name)
    if not isinstance(content, UploadFile):
        found.required(name)
    found.check()
    assert isinstance(content, UploadFile)
    return content.filename or "", chunks_of(content)


async def chunks_of(content: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await content.read(_CHUNK):
        yield chunk


class _Parser(MultiPartParser):
    """Takes ``filename*`` (RFC 5987) for the name of a file, too.

    It must not be in a form (RFC 7578), so that neither Starlette nor what is below it reads it, and takes the file for
    a field of text; but older clients send names beyond ASCII so.
    """

    def on_headers_finished(self) -> None:
        part = self._current_part
        name = _extended_name(part.content_disposition or b"")
        if name is not None:
            # Behind any other one, it is the one that counts; what it stands for is written below.
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()
        if name is not None and part.file is not None:
            part.file.filename = name


def _extended_name(disposition: bytes) -> str | None:
    """The name in ``filename*``. Raises UnicodeError, LookupError."""
    if b"*" not in disposition:
        return None
    message = Message()
    message["content-disposition"] = disposition.decode("latin-1")
    # Typed as if all values were text: those that were encoded come as triples.
    params = cast(Iterable[tuple[str, object]], message.get_params([], "content-disposition"))
    for name, value in params:
        if name.lower() == "filename" and isinstance(value, tuple):
            return collapse_rfc2231_value(value, errors="strict")
    return None
