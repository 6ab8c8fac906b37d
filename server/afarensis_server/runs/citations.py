"""How files that code wrote become part of the assistant's message.

Generated images come first, as ``image_file`` parts. A text that cites ``sandbox:/mnt/data/x.csv`` gets a ``file_path``
annotation. What the model forgot to cite, or cited wrongly, is attached all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..domain.executions import DisplayItem, ExecutionItem, FileChangeKind, FileItem
from ..domain.threads import Attachment, FilePathAnnotation
from ..domain.tools import CodeInterpreterTool

_SCHEME = "sandbox:"


@dataclass(frozen=True, slots=True)
class Generated:
    """What code made since the last message: the images it showed, and its files by path in their last state."""

    image_ids: tuple[str, ...]
    files: Mapping[str, str]


def generated_by(items: Iterable[ExecutionItem]) -> Generated:
    """Collect what these outputs made, in order."""
    images: dict[str, None] = {}
    files: dict[str, str] = {}
    for item in items:
        match item:
            case DisplayItem():
                images.update(
                    (form.file_id, None)
                    for form in item.representations
                    if form.file_id is not None and form.media_type.startswith("image/")
                )
            case FileItem(change=FileChangeKind.DELETED):
                files.pop(item.path, None)
            case FileItem(file=file) if file is not None:
                files[item.path] = file.id
    return Generated(tuple(images), files)


def annotate(text: str, files: Mapping[str, str]) -> tuple[FilePathAnnotation, ...]:
    """The annotations of a text: one for each place that cites a file by its path, in order."""
    annotations: dict[int, FilePathAnnotation] = {}
    # Known paths first, longest first: they may hold spaces or brackets that the pattern below would stop at.
    for path in sorted(files, key=len, reverse=True):
        citation = _SCHEME + path
        start = text.find(citation)
        while start >= 0:
            end = start + len(citation)
            is_free = not any(start < other.end_index and other.start_index < end for other in annotations.values())
            if is_free and _ends_here(text, end):
                annotations[start] = FilePathAnnotation(citation, start, end, files[path])
            start = text.find(citation, start + 1)
    return tuple(annotations[start] for start in sorted(annotations))


def _ends_here(text: str, end: int) -> bool:
    """Whether a citation that ends here is whole: ``x.csv`` is not cited by ``x.csv.gz`` or ``x.csv2``."""
    rest = text[end : end + 2]
    if not rest or not (rest[0].isalnum() or rest[0] in "._-/"):
        return True
    return rest[0] == "." and not rest[1:2].isalnum()


def uncited(generated: Generated, annotations: Sequence[FilePathAnnotation], known: set[str]) -> tuple[Attachment, ...]:
    """Attachments for the generated files that the text does not lead to; ``known`` are file ids shown otherwise."""
    cited = {annotation.file_id for annotation in annotations} | known
    missing = dict.fromkeys(file_id for file_id in generated.files.values() if file_id not in cited)
    return tuple(Attachment(file_id, (CodeInterpreterTool(),)) for file_id in missing)
