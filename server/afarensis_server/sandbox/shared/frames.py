"""What the server believes of a guest's frames: nothing that it has not checked."""

from dataclasses import dataclass
from typing import Any

from ..driver import CodeError, Display, Representation
from ..guest.frames import FrameError

#: Bytes of a frame's two parts. An honest guest keeps to the same.
MAX_HEADER = 256 * 1024
MAX_BODY = 16 * 1024 * 1024
_MAX_REPRESENTATIONS = 32
_MAX_MEDIA_TYPE = 255
_STATUSES = ("ok", "error", "interrupted")


@dataclass(frozen=True, slots=True)
class ResultFrame:
    #: "ok", "error" or "interrupted".
    status: str
    error: CodeError | None
    #: The guest says that it was refused memory.
    out_of_memory: bool = False


def parse_result(header: dict[str, Any]) -> ResultFrame:
    """Check a result's fields."""
    status, error = header.get("status"), header.get("error")
    if status not in _STATUSES:
        raise FrameError("a result without a known status")
    if status == "ok":
        return ResultFrame(status, None)
    if not isinstance(error, dict):
        raise FrameError("a failed result without its error")
    told = CodeError(*(_text(error, name) for name in ("name", "value", "traceback")))
    return ResultFrame(status, told, header.get("out_of_memory") is True)


def parse_display(header: dict[str, Any], body: bytes) -> Display:
    """Cut a display's body into its representations."""
    entries = header.get("representations")
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_REPRESENTATIONS:
        raise FrameError("a display without a sensible number of representations")
    representations = []
    start = 0
    for entry in entries:
        if not isinstance(entry, dict):
            raise FrameError("a representation is not an object")
        media_type, length = _text(entry, "media_type"), entry.get("length")
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= len(body) - start:
            raise FrameError("a representation is longer than its frame")
        if not 0 < len(media_type) <= _MAX_MEDIA_TYPE or not media_type.isprintable():
            raise FrameError("a media type is not one")
        data = body[start : start + length]
        start += length
        if entry.get("text") is True:
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                # None of an honest guest's; to replace what is wrong takes the server half a second for 16 MiB.
                raise FrameError("a text that is not UTF-8") from error
            representations.append(Representation(media_type, text=text))
        else:
            representations.append(Representation(media_type, data=data))
    if start != len(body):
        raise FrameError("a display's body is longer than its representations")
    return Display(tuple(representations))


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise FrameError(f"a frame's {name} is not a text")
    # Lone surrogates can be written in JSON, but in nothing that we send on.
    return value.encode(errors="replace").decode()
