"""Citations of generated files in the model's text."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from afarensis_server.domain.executions import DisplayItem, FileChangeKind, FileItem, Representation
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.domain.runs import (
    CodeInterpreterCall,
    MessageCreation,
    RunStep,
    StepDetails,
    StepStatus,
    ToolCalls,
)
from afarensis_server.domain.threads import ImageFileContent, TextContent
from afarensis_server.runs.citations import Made, finish, generated_by, made_by

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES = {"file-a": "a" * 64, "file-b": "b" * 64}
NO_IMAGES: dict[str, str] = {}


def stored(file_id: str, filename: str) -> File:
    return File(
        id=file_id,
        project="default",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        filename=filename,
        purpose=FilePurpose.ASSISTANTS_OUTPUT,
        size_bytes=1,
        sha256="0" * 64,
        media_type="text/csv",
    )


def written(path: str, file_id: str, change: FileChangeKind = FileChangeKind.CREATED) -> FileItem:
    return FileItem(path, change, stored(file_id, path.rsplit("/", 1)[-1]), 1)


def picture(path: str, file_id: str, sha256: str) -> FileItem:
    file = replace(stored(file_id, path.rsplit("/", 1)[-1]), media_type="image/png", sha256=sha256)
    return FileItem(path, FileChangeKind.CREATED, file, 1)


def shown(file_id: str, sha256: str) -> DisplayItem:
    return DisplayItem((Representation("image/png", file_id=file_id, sha256=sha256),))


def test_the_last_state_of_a_file_counts_and_a_deleted_one_does_not() -> None:
    generated = generated_by(
        [
            written("/mnt/data/x.csv", "file-1"),
            written("/mnt/data/x.csv", "file-2", FileChangeKind.MODIFIED),
            written("/mnt/data/gone.csv", "file-3"),
            FileItem("/mnt/data/gone.csv", FileChangeKind.DELETED),
        ]
    )
    assert generated.files == {"/mnt/data/x.csv": "file-2"}


def test_only_displayed_images_with_a_file_are_images() -> None:
    shown = DisplayItem((Representation("image/png", file_id="file-1"), Representation("text/plain", text="<Figure>")))
    table = DisplayItem((Representation("text/html", file_id="file-2"),))
    assert generated_by([shown, table, shown]).image_ids == ("file-1",)


def made(*items: FileItem | DisplayItem, images: Mapping[str, str] = NO_IMAGES) -> Made:
    generated = generated_by(items)
    return Made(generated, generated.files, images)


def step(number: int, details: StepDetails) -> RunStep:
    return RunStep(f"step_{number}", "default", "run_x", "thread_x", "asst_x", NOW, StepStatus.COMPLETED, details)


def calls(*items: FileItem | DisplayItem) -> ToolCalls:
    return ToolCalls((CodeInterpreterCall("call_x", "pass", items),))


def test_a_file_that_the_text_does_not_cite_is_attached() -> None:
    text = TextContent("sandbox:/mnt/data/a.csv sandbox:/mnt/data/wrong.csv")
    files = made(written("/mnt/data/a.csv", "file-a"), written("/mnt/data/b.csv", "file-b"))
    finished = finish((text,), files, {})
    (annotated,) = finished.additions
    assert isinstance(annotated.content, TextContent)
    (annotation,) = annotated.content.annotations
    assert (annotation.file_id, annotation.start_index, annotation.end_index) == ("file-a", 0, 23)
    assert finished.content == (TextContent(text.value, (annotation,)),)
    assert [attachment.file_id for attachment in finished.attachments] == ["file-b"]


def test_finishing_again_adds_nothing() -> None:
    """A crash may come between the parts of an end: what is there is not brought in twice."""
    steps = [step(1, calls(written("/mnt/data/a.csv", "file-a"), picture("/mnt/data/b.png", "file-b", "0" * 64)))]
    first = finish((TextContent("sandbox:/mnt/data/a.csv"),), made_by(steps), {})
    assert [addition.index for addition in first.additions] == [0, 1]
    again = finish(first.content, made_by(steps), {})
    assert (again.content, again.additions) == (first.content, ())


def test_an_image_that_is_neither_shown_nor_cited_becomes_a_part() -> None:
    files = made(written("/mnt/data/a.png", "file-a"), written("/mnt/data/b.png", "file-b"), images=IMAGES)
    finished = finish((ImageFileContent("file-a"), TextContent("Two.")), files, {})
    assert [(addition.index, addition.content) for addition in finished.additions] == [(2, ImageFileContent("file-b"))]
    assert finished.attachments == ()


def test_a_picture_that_was_shown_and_saved_comes_once() -> None:
    steps = [step(1, calls(shown("file-display", "1" * 64), picture("/mnt/data/c.png", "file-saved", "1" * 64)))]
    files = made_by(steps)
    assert files.since_message.image_ids == ("file-display",)
    finished = finish((ImageFileContent("file-display"), TextContent("See above.")), files, {})
    assert (finished.additions, finished.attachments) == ((), ())


def test_a_picture_that_was_shown_twice_comes_once() -> None:
    generated = generated_by([shown("file-1", "1" * 64), shown("file-2", "2" * 64), shown("file-3", "1" * 64)])
    assert generated.image_ids == ("file-1", "file-2")


def test_a_picture_that_was_saved_under_two_names_comes_once() -> None:
    steps = [
        step(1, calls(picture("/mnt/data/a.png", "file-a", "1" * 64), picture("/mnt/data/b.png", "file-b", "1" * 64)))
    ]
    finished = finish((TextContent("Here."),), made_by(steps), {})
    assert finished.content == (TextContent("Here."), ImageFileContent("file-a"))
    assert finished.attachments == ()


def test_a_markdown_image_is_annotated_and_is_no_part_besides() -> None:
    steps = [step(1, calls(picture("/mnt/data/c.png", "file-c", "1" * 64)))]
    finished = finish((TextContent("![c](sandbox:/mnt/data/c.png)"),), made_by(steps), {})
    (part,) = finished.content
    assert isinstance(part, TextContent)
    assert [annotation.file_id for annotation in part.annotations] == ["file-c"]


def test_an_image_that_a_crash_kept_out_comes_behind_the_text() -> None:
    steps = [step(1, calls(shown("file-display", "1" * 64)))]
    finished = finish((TextContent("Here."),), made_by(steps), {})
    assert finished.content == (TextContent("Here."), ImageFileContent("file-display"))


def test_files_of_earlier_runs_can_be_cited_and_are_not_attached_otherwise() -> None:
    earlier = {"/mnt/data/old.csv": "file-old", "/mnt/data/other.csv": "file-other"}
    finished = finish((TextContent("sandbox:/mnt/data/old.csv"),), made(), earlier)
    (part,) = finished.content
    assert isinstance(part, TextContent)
    assert [annotation.file_id for annotation in part.annotations] == ["file-old"]
    assert finished.attachments == ()


def test_all_files_of_a_cited_directory_are_attached() -> None:
    earlier = {"/mnt/data/out/a.csv": "file-a", "/mnt/data/out/b.csv": "file-b", "/mnt/data/c.csv": "file-c"}
    finished = finish((TextContent("All is in sandbox:/mnt/data/out/"),), made(), earlier)
    assert finished.additions == ()
    assert [attachment.file_id for attachment in finished.attachments] == ["file-a", "file-b"]


def test_what_was_made_before_the_step_counts() -> None:
    steps = [
        step(1, calls(written("/mnt/data/a.csv", "file-a"))),
        step(2, MessageCreation("msg_1")),
        step(3, calls(written("/mnt/data/b.csv", "file-b"))),
        step(4, MessageCreation("msg_2")),
    ]
    assert made_by(steps, "step_4").since_message.files == {"/mnt/data/b.csv": "file-b"}
    assert set(made_by(steps).files.values()) == {"file-a", "file-b"}


_PIECES = st.sampled_from(
    ["sandbox:", "/mnt/data/", "](", "(<", ">", ")", "%20", "&amp;", " ", "\n", ".", "é", "图", "📈", "a.csv", "b.png"]
)


@given(st.lists(_PIECES | st.text(max_size=3), max_size=40).map("".join))
def test_annotations_are_the_words_as_they_stand(text: str) -> None:
    files = {"/mnt/data/a.csv": "a", "/mnt/data/out/b.png": "b", "/mnt/data/é 图.csv": "c", "/mnt/data/📈": "d"}
    finished = finish((TextContent(text),), made(), files)
    part = finished.content[0]
    assert isinstance(part, TextContent)
    end = 0
    for annotation in part.annotations:
        assert end <= annotation.start_index < annotation.end_index
        assert text[annotation.start_index : annotation.end_index] == annotation.text
        end = annotation.end_index
    assert finish(finished.content, made(), files).additions == ()
