"""text/plain of any value: ``repr``, bounded in length and never failing."""

from collections.abc import Iterator

from .limits import MAX_ELEMENTS, MAX_PLAIN, clean, shorten

#: How ``repr`` writes the built-in containers: opening, closing, and for an empty one.
_BRACKETS: dict[type, tuple[str, str, str]] = {
    list: ("[", "]", "[]"),
    tuple: ("(", ")", "()"),
    set: ("{", "}", "set()"),
    frozenset: ("frozenset({", "})", "frozenset()"),
    dict: ("{", "}", "{}"),
}


def plain_text(value: object) -> str:
    """The value's ``repr``, cut short where it is very long; what is wrong with it where it fails."""
    try:
        return shorten(clean(_bounded(value)), MAX_PLAIN)
    except Exception as error:
        return f"<{class_name(value)} object whose repr failed: {_describe(error)}>"


def class_name(value: object) -> str:
    """The name of the value's class, whatever its metaclass says."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def _describe(error: Exception) -> str:
    try:
        return shorten(clean(f"{class_name(error)}: {error}"), 200)
    except Exception:
        return class_name(error)  # even its text fails


def _bounded(value: object) -> str:
    pieces: list[str] = []
    size = 0
    for piece in _pieces(value, set()):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_PLAIN:
            pieces.append("...")
            break
    return "".join(pieces)


def _pieces(value: object, parents: set[int]) -> Iterator[str]:
    """``repr`` in pieces, so that a giant container is not written out in full only to be cut."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        yield _text(value)  # type: ignore[arg-type]  # the line above says so
    elif kind in _BRACKETS:
        if id(value) in parents:
            opening, closing, _ = _BRACKETS[kind]
            yield f"{opening}...{closing}"
            return
        parents.add(id(value))
        yield from _container(value, parents)  # type: ignore[arg-type]  # one of the keys of _BRACKETS
        parents.discard(id(value))
    else:
        yield repr(value)


def _text(value: str | bytes | bytearray) -> str:
    if len(value) <= MAX_PLAIN:
        return repr(value)
    return f"{value[:MAX_PLAIN]!r}... ({len(value)} in all)"


def _container(
    value: "list[object] | tuple[object, ...] | set[object] | frozenset[object] | dict[object, object]",
    parents: set[int],
) -> Iterator[str]:
    opening, closing, empty = _BRACKETS[type(value)]
    if not value:
        yield empty
        return
    yield opening
    for index, one in enumerate(value):
        if index:
            yield ", "
        if index == MAX_ELEMENTS:
            yield f"... ({len(value)} in all)"
            break
        yield from _pieces(one, parents)
        if isinstance(value, dict):
            yield ": "
            yield from _pieces(value[one], parents)
    if isinstance(value, tuple) and len(value) == 1:
        yield ","
    yield closing
