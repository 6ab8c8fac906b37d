"""How files that code wrote become part of the assistant's message.

Images that were shown come first, as ``image_file`` parts: they are there before the text is. A text that leads to
``sandbox:/mnt/data/x.csv`` gets a ``file_path`` annotation; so does a Markdown image, since its text is already with
its readers. What the model forgot to cite, or cited wrongly, is brought in all the same: images as parts behind the
text, others as attachments. No picture comes twice as a part, also not when code saved it and showed it. So it is
however a message ends: with the run, cut off by a limit, cancelled, or by a crash.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..domain.events import EventDraft, EventType, MessageContentDelta, MessageDelta
from ..domain.executions import DisplayItem, ExecutionItem, FileChangeKind, FileItem
from ..domain.runs import MessageCreation, RunStep
from ..domain.threads import Attachment, FilePathAnnotation, ImageFileContent, MessageContent, TextContent
from ..domain.tools import CodeInterpreterTool
from .drafts import MessageDraft, outputs_of
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
    #: SHA-256 by file id of the images among them, and of those that were shown; the id itself where it is not known.
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a message that ends is like, and what was added to its content for that."""

    content: tuple[MessageContent, ...]
    additions: tuple[MessageContentDelta, ...]
    attachments: tuple[Attachment, ...]


def generated_by(items: Iterable[ExecutionItem]) -> Generated:
    """Collect what these outputs made, in order."""
    images: dict[str, str] = {}
    files: dict[str, str] = {}
    for item in items:
        match item:
            case DisplayItem():
                for file_id, sha256 in _pictures(item):
                    images.setdefault(sha256, file_id)
            case FileItem(change=FileChangeKind.DELETED):
                files.pop(item.path, None)
            case FileItem(file=file) if file is not None:
                files[item.path] = file.id
    return Generated(tuple(images.values()), files)


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
    images = {file_id: sha256 for item in everything for file_id, sha256 in _pictures(item)}
    return Made(generated_by(since), generated_by(everything).files, images)


def _pictures(item: ExecutionItem) -> Iterator[tuple[str, str]]:
    """The images of an output that are files: the id and the content of each."""
    match item:
        case DisplayItem():
            for form in item.representations:
                if form.file_id is not None and form.media_type.startswith("image/"):
                    yield form.file_id, form.sha256 or form.file_id
        case FileItem(file=file) if file is not None and file.media_type.startswith("image/"):
            yield file.id, file.sha256


def finish(content: Sequence[MessageContent], made: Made, citable: Mapping[str, str]) -> Finished:
    """A message at its end, whatever of this was done to it before: a crash or a cancellation may have come between.

    ``citable`` are file ids by the paths that a text may lead to, besides what the run made itself.
    """
    additions: list[MessageContentDelta] = []
    brought: set[str] = {part.file_id for part in content if isinstance(part, ImageFileContent)}
    wanted = [*made.since_message.image_ids, *made.since_message.files.values()]
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
        if new := tuple(annotation for annotation in annotations if annotation not in part.annotations):
            additions.append(MessageContentDelta(index, TextContent("", new)))
        brought |= {annotation.file_id for annotation in annotations}
        # One annotation leads to one file: those of a directory are all attached.
        wanted += [file_id for link in links if len(link.file_ids) > 1 for file_id in link.file_ids]
    missing = [file_id for file_id in dict.fromkeys(wanted) if file_id not in brought]
    seen = {made.images[file_id] for file_id in brought if file_id in made.images}
    images: list[str] = []
    for file_id in missing:
        if (sha256 := made.images.get(file_id)) is not None and sha256 not in seen:
            seen.add(sha256)
            images.append(file_id)
    additions += [
        MessageContentDelta(index, ImageFileContent(file_id)) for index, file_id in enumerate(images, len(content))
    ]
    draft = MessageDraft(content)
    draft.apply(MessageDelta("", tuple(additions)))
    attached = tuple(Attachment(file_id, (CodeInterpreterTool(),)) for file_id in missing if file_id not in made.images)
    return Finished(draft.content(), tuple(additions), attached)


def additions_to(message_id: str, finished: Finished) -> list[EventDraft]:
    """The events that tell of what was added to a message at its end."""
    return [
        EventDraft(EventType.MESSAGE_DELTA, MessageDelta(message_id, (addition,))) for addition in finished.additions
    ]
