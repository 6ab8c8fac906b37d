"""How files that code wrote become part of the assistant's message.

Images that were shown come first, as ``image_file`` parts. A text that leads to ``sandbox:/mnt/data/x.csv`` gets a
``file_path`` annotation. What the model forgot to cite, or cited wrongly, is attached all the same. So it is however a
message ends: with the run, cut off by a limit, cancelled, or by a crash.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..domain.events import MessageContentDelta
from ..domain.executions import DisplayItem, ExecutionItem, FileChangeKind, FileItem
from ..domain.runs import MessageCreation, RunStep
from ..domain.threads import Attachment, FilePathAnnotation, ImageFileContent, MessageContent, TextContent
from ..domain.tools import CodeInterpreterTool
from .drafts import outputs_of
from .links import find_links


@dataclass(frozen=True, slots=True)
class Generated:
    """What code made since the last message: the images it showed, and its files by path in their last state."""

    image_ids: tuple[str, ...]
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Made:
    """What the code of a run has made so far."""

    since_message: Generated = Generated((), {})
    #: File ids by path, over the whole run.
    files: Mapping[str, str] = field(default_factory=dict)
    #: The ids of those files that are images.
    images: frozenset[str] = frozenset()


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


def made_by(run_steps: Iterable[RunStep], before_step_id: str | None = None) -> Made:
    """What the code of a run has made in these steps, the oldest first; up to one of them if that is given."""
    everything: list[ExecutionItem] = []
    since: list[ExecutionItem] = []
    for step in run_steps:
        if step.id == before_step_id:
            break
        if isinstance(step.details, MessageCreation):
            since.clear()
        else:
            outputs = outputs_of(step.details.calls)
            everything += outputs
            since += outputs
    images = frozenset(
        item.file.id
        for item in everything
        if isinstance(item, FileItem) and item.file is not None and item.file.media_type.startswith("image/")
    )
    return Made(generated_by(since), generated_by(everything).files, images)


def finish(
    content: Sequence[MessageContent], made: Made, citable: Mapping[str, str]
) -> tuple[list[MessageContentDelta], tuple[Attachment, ...]]:
    """What a message that ends needs besides: additions to its content, and attachments.

    Its text is annotated, and generated files that it does not lead to are brought in: images as parts, others as
    attachments. ``citable`` are file ids by the paths that a text may lead to, besides what the run made itself.
    """
    additions: list[MessageContentDelta] = []
    cited: set[str] = {part.file_id for part in content if isinstance(part, ImageFileContent)}
    wanted = list(made.since_message.files.values())
    files = {**citable, **made.files}
    for index, part in enumerate(content):
        if not isinstance(part, TextContent):
            continue
        links = find_links(part.value, files)
        annotations = tuple(
            FilePathAnnotation(part.value[link.start : link.end], link.start, link.end, link.file_ids[0])
            for link in links
            if len(link.file_ids) == 1
        )
        if annotations:
            additions.append(MessageContentDelta(index, TextContent("", annotations)))
            cited |= {annotation.file_id for annotation in annotations}
        # One annotation leads to one file: those of a directory are all attached.
        wanted += [file_id for link in links if len(link.file_ids) > 1 for file_id in link.file_ids]
    missing = [file_id for file_id in dict.fromkeys(wanted) if file_id not in cited]
    images = [file_id for file_id in missing if file_id in made.images]
    additions += [
        MessageContentDelta(index, ImageFileContent(file_id)) for index, file_id in enumerate(images, len(content))
    ]
    attached = tuple(Attachment(file_id, (CodeInterpreterTool(),)) for file_id in missing if file_id not in made.images)
    return additions, attached
