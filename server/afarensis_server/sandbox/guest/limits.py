"""The caps the guest keeps by itself, so that what it sends fits the host's frames and serves a reader.

The host trusts none of this: it has limits of its own. These exist so that an honest program with a giant value gets a
short note instead of a lost session.
"""

#: Bytes of a frame's header, both ways; the host must accept at least this much.
MAX_HEADER = 256 * 1024
#: Bytes of a frame's body that the guest sends; the host must accept at least this much.
MAX_BODY = 16 * 1024 * 1024
#: Bytes of one request's frame header that the guest accepts: the code of a cell stands in it.
MAX_REQUEST = 16 * 1024 * 1024
#: Representations of one displayed value.
MAX_REPRESENTATIONS = 16
#: Characters of a media type.
MAX_MEDIA_TYPE = 127

#: Characters of text/plain; the rest is cut off, with a note.
MAX_PLAIN = 64 * 1024
#: Bytes of any other textual representation, such as text/html; a larger one is left out, with a note.
MAX_TEXTUAL = 2 * 1024 * 1024
#: Elements of a built-in container that text/plain shows.
MAX_ELEMENTS = 1000

#: Characters of an error's name, value and traceback: they stand in a header, where one may take six bytes and more.
MAX_ERROR_NAME = 256
MAX_ERROR_VALUE = 4 * 1024
MAX_TRACEBACK = 16 * 1024


def shorten(text: str, limit: int) -> str:
    """The text itself, or its beginning and a note on how much was cut off."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n... ({len(text) - limit} more characters)"


def shorten_middle(text: str, limit: int) -> str:
    """The text itself, or its two ends with a note between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"


def clean(text: str) -> str:
    """The text without lone surrogates, which no UTF-8 can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
