"""What a model reads of a code execution, and how `direct` reads it back.

A transcript is what the code put out, then lines in brackets that tell what happened, the status last::

    species  body_mass_g
    Adelie        3700.7

    [image shown: image/png]
    [file created: /mnt/data/summary.csv]
    [status: ok]

Code cannot forge these lines for a program that reads them: an empty line, behind everything that code put out, is
where they begin.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...domain.executions import (
    DisplayItem,
    ExecutionItem,
    ExecutionResult,
    ExecutionStatus,
    FileChangeKind,
    FileItem,
    OutputItem,
    Representation,
)

#: Files are named one by one up to this number.
_MAX_FILES = 50

_NOTE = re.compile(r"\[(image shown|file|status|note)\b[^\n]*\]")
_FILE = re.compile(r"\[file (created|modified|deleted): (.*)\]")
_STATUS = re.compile(rf"\[status: ({'|'.join(ExecutionStatus)})\]")

#: Forms of a displayed value that a model reads, the best first.
_TEXT_FORMS = ("text/plain", "text/markdown", "text/latex", "application/json", "text/html")

_ENDED_BY_US = frozenset({ExecutionStatus.TIMEOUT, ExecutionStatus.OUT_OF_MEMORY})

_EXPLANATIONS = {
    ExecutionStatus.TIMEOUT: "the code was stopped because it ran too long; do less in one call",
    ExecutionStatus.INTERRUPTED: "the code was interrupted",
    ExecutionStatus.OUT_OF_MEMORY: "the code used more memory than there is; work on less data at a time",
    ExecutionStatus.SESSION_LOST: "the interpreter ended; whether the code ran to its end is unknown",
}


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript read back. ``status`` is None when the text is not a transcript: then nothing was run."""

    output: str
    status: ExecutionStatus | None
    files: tuple[tuple[FileChangeKind, str], ...] = ()
    images: int = 0


def render(
    items: Sequence[ExecutionItem], result: ExecutionResult, *, state_lost: bool = False, limit_characters: int
) -> str:
    """The transcript of an execution, about ``limit_characters`` long at most: the middle of the output gives way.

    ``state_lost``: the variables of earlier executions were gone when this one began.
    """
    notes = list(_notes(items, result, state_lost))
    room = max(limit_characters - sum(len(note) + 1 for note in notes), limit_characters // 4)
    output = shortened(_output(items, result).replace("\0", "\N{REPLACEMENT CHARACTER}"), room).rstrip()
    return "\n".join([output, "", *notes] if output else notes)


def parse(text: str) -> Transcript:
    """Read a transcript back. Only the lines that `render` put at its end are believed."""
    lines = text.split("\n")
    if (status := _STATUS.fullmatch(lines[-1])) is None:
        return Transcript(text, None)
    begin = len(lines)
    while begin > 0 and _NOTE.fullmatch(lines[begin - 1]):
        begin -= 1
    files = [found.groups() for line in lines[begin:] if (found := _FILE.fullmatch(line))]
    return Transcript(
        output="\n".join(lines[:begin]).rstrip(),
        status=ExecutionStatus(status[1]),
        files=tuple((FileChangeKind(change), path) for change, path in files),
        images=sum(line.startswith("[image shown") for line in lines[begin:]),
    )


def _output(items: Iterable[ExecutionItem], result: ExecutionResult) -> str:
    pieces: list[str] = []
    for item in items:
        match item:
            case OutputItem():
                if item.dropped_bytes:
                    pieces.append(f"\n... {item.dropped_bytes:,} bytes of output were dropped here ...\n")
                pieces.append(item.text)
            case DisplayItem() if not _image_type(item):
                pieces.append(_on_its_own_line(pieces, _display_text(item)))
    if result.error is not None:
        error = result.error
        said = f"{error.name}: {error.value}"
        pieces.append(_on_its_own_line(pieces, error.traceback or said))
        if error.traceback and result.status in _ENDED_BY_US:
            # The traceback shows where the code was, the error which limit it met and what is left of the session.
            pieces.append(_on_its_own_line(pieces, said))
    return "".join(pieces)


def _on_its_own_line(before: Sequence[str], text: str) -> str:
    starts = not before or before[-1].endswith("\n")
    return f"{'' if starts else chr(10)}{text}{'' if text.endswith(chr(10)) else chr(10)}"


def _image_type(item: DisplayItem) -> str | None:
    return next((form.media_type for form in item.representations if form.media_type.startswith("image/")), None)


def _display_text(item: DisplayItem) -> str:
    forms: dict[str, Representation] = {}
    for form in item.representations:
        forms.setdefault(form.media_type, form)
    for media_type in _TEXT_FORMS:
        if (found := forms.get(media_type)) is not None and found.text is not None:
            return found.text
    names = ", ".join(forms) or "nothing"
    return f"(a value was displayed to the user as {names}; it is not shown here)"


def _notes(items: Sequence[ExecutionItem], result: ExecutionResult, state_lost: bool) -> Iterable[str]:
    if state_lost:
        yield "[note: this was a new interpreter: variables, imports and functions of earlier calls were gone]"
    for item in items:
        if isinstance(item, DisplayItem) and (media_type := _image_type(item)) is not None:
            yield f"[image shown: {one_line(media_type)}]"
    changes = {item.path: item for item in items if isinstance(item, FileItem)}
    for change in list(changes.values())[:_MAX_FILES]:
        yield _file_note(change)
    if len(changes) > _MAX_FILES:
        yield f"[note: {len(changes) - _MAX_FILES} more files changed]"
    for exceeded in result.exceeded_limits:
        unit = " ms" if exceeded.name == "timeout" else ""
        yield f"[note: the limit {one_line(exceeded.name)} of {exceeded.limit}{unit} was reached]"
    if not items and result.error is None:
        yield "[note: no output]"
    if explanation := _EXPLANATIONS.get(result.status):
        yield f"[note: {explanation}]"
    if result.state_lost:
        yield "[note: variables, imports and functions are gone, files remain]"
    yield f"[status: {result.status.value}]"


def _file_note(change: FileItem) -> str:
    path = one_line(change.path)
    if change.file is None and change.change is not FileChangeKind.DELETED:
        return f"[note: the file {path} could not be kept for the user: {change.size_bytes:,} bytes]"
    return f"[file {change.change.value}: {path}]"


def one_line(text: str) -> str:
    """A text without line breaks, which file names may hold and notes may not."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def shortened(text: str, limit: int, advice: str = "; print less or write it to a file") -> str:
    """Cut out the middle: the beginning says what it is, the end has the result or the error."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 5
    tail = limit - head
    note = f"\n... {len(text) - limit:,} characters left out here{advice} ...\n"
    return text[:head] + note + text[-tail:]
