"""File names and the media types that they tell."""

import re
import unicodedata

from ..validation import Reason, Violations, echo

NAME_BYTES = 255
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MEDIA_TYPE_CHARACTERS = 255
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: ?; ?[ -~]+)?")
_UNKNOWN = "application/octet-stream"

# Not `mimetypes`: it reads tables of the host, so that the same file would have another type on another machine.
_MEDIA_TYPES = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "bz2": "application/x-bzip2",
    "c": "text/x-c",
    "cpp": "text/x-c++",
    "cs": "text/x-csharp",
    "css": "text/css",
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "feather": "application/vnd.apache.arrow.file",
    "gif": "image/gif",
    "go": "text/x-go",
    "gz": "application/gzip",
    "h": "text/x-c",
    "htm": "text/html",
    "html": "text/html",
    "ipynb": "application/x-ipynb+json",
    "java": "text/x-java",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "log": "text/plain",
    "md": "text/markdown",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "npy": "application/x-npy",
    "npz": "application/x-npz",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
    "php": "text/x-php",
    "pkl": "application/x-pickle",
    "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "py": "text/x-python",
    "rb": "text/x-ruby",
    "rs": "text/x-rust",
    "rtf": "application/rtf",
    "sh": "text/x-shellscript",
    "sql": "application/sql",
    "sqlite": "application/vnd.sqlite3",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "tex": "text/x-tex",
    "tgz": "application/gzip",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "toml": "application/toml",
    "ts": "text/x-typescript",
    "tsv": "text/tab-separated-values",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "xz": "application/x-xz",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
}


def media_type_of(filename: str) -> str:
    """The media type that a name tells by its last suffix."""
    _, dot, suffix = filename.rpartition(".")
    return _MEDIA_TYPES.get(suffix.lower(), _UNKNOWN) if dot else _UNKNOWN


def check_filename(violations: Violations, field: str, filename: str) -> None:
    """Check that a name can be that of a file in any session: it stands for itself and for nothing else."""
    path = violations.path(field)
    if not filename:
        violations.required(field)
    elif bad := _FORBIDDEN.search(filename):
        character = f"U+{ord(bad[0]):04X}"
        if bad[0].isprintable():
            character = f"'{bad[0]}' ({character})"
        description = f"Invalid '{path}': a file name may not contain {character}, which is at index {bad.start()}."
        violations.add(field, Reason.INVALID_CHARACTER, description)
    elif filename in {".", ".."}:
        violations.add(field, Reason.INVALID_FORMAT, f"Invalid '{path}': '{filename}' is not the name of a file.")
    elif (size := len(filename.encode())) > NAME_BYTES:
        violations.add(
            field,
            Reason.STRING_TOO_LONG,
            f"Invalid '{path}': file name too long. Expected a name of at most {NAME_BYTES} bytes in UTF-8, "
            f"but got one of {size} bytes instead.",
        )


def check_media_type(violations: Violations, field: str, media_type: str) -> None:
    """Check a media type, which is sent as an HTTP header one day."""
    violations.string(field, media_type, maximum=_MEDIA_TYPE_CHARACTERS)
    if 0 < len(media_type) <= _MEDIA_TYPE_CHARACTERS and not _MEDIA_TYPE.fullmatch(media_type):
        description = f"Invalid '{violations.path(field)}': '{echo(media_type)}' is not a media type like 'text/csv'."
        violations.add(field, Reason.INVALID_FORMAT, description)


def output_filename(path: str) -> str:
    """A valid name for a file that code made, as close to its own as possible.

    Code names its files as it likes, and what it made should not be lost for a name.
    """
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", path.rpartition("/")[2]))
    if name in {"", ".", ".."}:
        return "file"
    if len(name.encode()) <= NAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    ending = f"{dot}{suffix}".encode() if stem and len(suffix) <= 16 else b""
    start = name.encode()[: NAME_BYTES - len(ending)]
    return (start + ending).decode(errors="ignore")
