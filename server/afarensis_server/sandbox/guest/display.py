"""Displayed values as representations: every form of one value at once, as Jupyter's mimebundles have them."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .limits import (
    MAX_BODY,
    MAX_MEDIA_TYPE,
    MAX_PLAIN,
    MAX_REPRESENTATIONS,
    MAX_TEXTUAL,
    clean,
    shorten,
)
from .plaintext import plain_text

PLAIN = "text/plain"

#: The methods that objects offer, richest first. A later image form of the same value is not asked for.
METHODS = (
    ("text/html", "_repr_html_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("text/latex", "_repr_latex_"),
    ("text/markdown", "_repr_markdown_"),
    ("application/json", "_repr_json_"),
)


@dataclass(frozen=True, slots=True)
class Representation:
    """One form of a value; textual ones are UTF-8."""

    media_type: str
    data: bytes
    text: bool


class Displays:
    """Turns values into display frames for the cell that runs."""

    def __init__(self, send: Callable[[dict[str, Any], bytes], None]) -> None:
        self._send = send

    def show(self, value: object) -> None:
        """Display one value in all its forms."""
        self.show_representations(represent(value))

    def show_bundle(self, bundle: Mapping[str, object]) -> None:
        """Display ready-made forms by media type."""
        self.show_representations(fit(_from_bundle(bundle)))

    def show_representations(self, representations: list[Representation]) -> None:
        if not representations:
            return
        described = [
            {"media_type": one.media_type, "length": len(one.data), "text": one.text} for one in representations
        ]
        header = {"type": "display", "representations": described}
        self._send(header, b"".join(one.data for one in representations))


def represent(value: object) -> list[Representation]:
    """All forms of a value, richest first; the last is text/plain. A form that fails to be made is left out."""
    found: dict[str, Representation] = {}
    if not issubclass(type(value), type):  # not isinstance(): it asks the value, which may be a proxy that fails
        for one in _from_bundle(_mimebundle(value)):
            found[one.media_type] = one
        for media_type, method in METHODS:
            if media_type in found or (media_type == "image/jpeg" and "image/png" in found):
                continue
            form = _representation(media_type, _call(value, method))
            if form is not None:
                found[media_type] = form
    plain = found.pop(PLAIN, None) or Representation(PLAIN, plain_text(value).encode(), text=True)
    return fit([*found.values(), plain])


def fit(representations: list[Representation], max_body: int = MAX_BODY) -> list[Representation]:
    """Leave out what is too large for a frame, and say so in text/plain."""
    kept: list[Representation] = []
    notes: list[str] = []
    size = 0
    for one in representations:
        too_large = one.text and one.media_type != PLAIN and len(one.data) > MAX_TEXTUAL
        if too_large or size + len(one.data) > max_body - 4 * MAX_PLAIN or len(kept) >= MAX_REPRESENTATIONS:
            notes.append(f"[{one.media_type} of {len(one.data)} bytes is too large to show; save it to a file instead]")
            continue
        size += len(one.data)
        kept.append(one)
    if notes:
        plain = next((one.data.decode() for one in kept if one.media_type == PLAIN), "")
        kept = [one for one in kept if one.media_type != PLAIN]
        kept.append(Representation(PLAIN, "\n".join([plain, *notes]).strip().encode(), text=True))
    return kept


def _method(value: object, name: str) -> Callable[..., object] | None:
    # Looked up on the class: objects that answer to any attribute name would claim every method.
    if getattr(type(value), name, None) is None:
        return None
    method = getattr(value, name, None)
    return method if callable(method) else None


def _call(value: object, name: str) -> object:
    try:
        method = _method(value, name)
        made = method() if method is not None else None
    except Exception:
        return None  # the other forms remain, text/plain at the least
    return made[0] if isinstance(made, tuple) and len(made) == 2 else made


def _mimebundle(value: object) -> Mapping[str, object]:
    try:
        method = _method(value, "_repr_mimebundle_")
        made = method(include=None, exclude=None) if method is not None else None
    except Exception:
        return {}
    if isinstance(made, tuple) and made:
        made = made[0]
    return made if isinstance(made, Mapping) else {}


def _from_bundle(bundle: Mapping[str, object]) -> list[Representation]:
    made = (_representation(media_type, data) for media_type, data in bundle.items())
    # text/plain last; application/vnd.* forms are made for one viewer and the richest.
    ranks = {media_type: rank for rank, (media_type, _) in enumerate(METHODS)}
    known = [one for one in made if one is not None]
    return sorted(known, key=lambda one: len(ranks) if one.media_type == PLAIN else ranks.get(one.media_type, -1))


def _representation(media_type: object, made: Any) -> Representation | None:
    if (
        made is None
        or not isinstance(media_type, str)
        or not media_type.isascii()
        or not 0 < len(media_type) <= MAX_MEDIA_TYPE
    ):
        return None
    if isinstance(made, bytes | bytearray | memoryview):
        return Representation(media_type, bytes(made), text=_is_textual(media_type))
    if isinstance(made, str):
        if _is_textual(media_type):
            text = shorten(clean(made), MAX_PLAIN) if media_type == PLAIN else clean(made)
            return Representation(media_type, text.encode(), text=True)
        try:
            return Representation(media_type, base64.b64decode(made), text=False)
        except ValueError:
            return None
    try:
        return Representation(media_type, json.dumps(made).encode(), text=True)
    except Exception:
        return None  # not JSON after all: values of the user's own classes


def _is_textual(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type.endswith(("json", "+xml", "javascript", "/xml"))
