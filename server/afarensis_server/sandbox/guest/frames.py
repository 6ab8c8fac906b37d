"""The framed messages between host and guest, both ways, over one stream socket.

A frame is two unsigned 32-bit big-endian lengths, a JSON header of the first length and a binary body of the second.
The host treats everything from the guest as hostile: lengths are checked before anything is allocated.

======  ==============================================================================================================
to      header
======  ==============================================================================================================
guest   ``{"type": "execute", "id": int, "code": str}``
guest   ``{"type": "limits", ...}``, before the first request, where the guest was told what to do with its fields
host    ``{"type": "ready"}``, once, before the first request
host    ``{"type": "display", "id": int, "representations": [{"media_type": str, "length": int, "text": bool}, ...]}``;
        the body holds the representations one after another, textual ones as UTF-8
host    ``{"type": "result", "id": int, "status": "ok" | "error" | "interrupted", "error": null | {"name": str,
        "value": str, "traceback": str}, "out_of_memory": bool}``, after both output pipes were flushed;
        ``out_of_memory``: the error is a MemoryError that no ``raise`` of the code made
======  ==============================================================================================================

An ``id`` is a random number, so that nothing can be answered ahead of its request. An interrupt is SIGINT, not a
frame. Standard output and error are pipes of their own.
"""

import json
import struct
from typing import Any

PREFIX = struct.Struct(">II")
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode


class FrameError(ValueError):
    """A frame that breaks the format."""


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame, ready to send."""
    encoded = _to_json(header).encode()
    return PREFIX.pack(len(encoded), len(body)) + encoded + body


class FrameBuffer:
    """Cuts a byte stream into frames.

    ``max_header`` and ``max_body`` are in bytes; a frame that announces more raises FrameError before it is stored.
    """

    def __init__(self, max_header: int, max_body: int) -> None:
        self._max_header = max_header
        self._max_body = max_body
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Take in more bytes and return the frames that are now complete."""
        self._buffer += data
        frames: list[tuple[dict[str, Any], bytes]] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of a frame that is not complete."""
        return not self._buffer

    @property
    def missing(self) -> int:
        """Bytes that the frame that has begun still takes, as far as is known."""
        if len(self._buffer) < PREFIX.size:
            return PREFIX.size - len(self._buffer)
        header_length, body_length = PREFIX.unpack_from(self._buffer)
        missing: int = PREFIX.size + header_length + body_length - len(self._buffer)
        return missing

    def _next(self) -> tuple[dict[str, Any], bytes] | None:
        if len(self._buffer) < PREFIX.size:
            return None
        header_length, body_length = PREFIX.unpack_from(self._buffer)
        if header_length > self._max_header or body_length > self._max_body:
            raise FrameError(f"a frame announces {header_length} + {body_length} bytes")
        end = PREFIX.size + header_length + body_length
        if len(self._buffer) < end:
            return None
        try:
            header = _from_json(self._buffer[PREFIX.size : PREFIX.size + header_length].decode())
        except (ValueError, RecursionError) as error:
            raise FrameError("a frame's header is not JSON") from error
        if not isinstance(header, dict) or not isinstance(header.get("type"), str):
            raise FrameError("a frame's header is not an object with a type")
        body = bytes(self._buffer[PREFIX.size + header_length : end])
        del self._buffer[:end]
        return header, body
