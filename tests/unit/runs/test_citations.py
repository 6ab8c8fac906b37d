"""Citations of generated files in the model's text."""

from datetime import UTC, datetime

from afarensis_server.domain.executions import DisplayItem, FileChangeKind, FileItem, Representation
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.runs.citations import annotate, generated_by, uncited


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


def cited(text: str, files: dict[str, str]) -> list[tuple[str, str]]:
    annotations = annotate(text, files)
    for annotation in annotations:
        assert text[annotation.start_index : annotation.end_index] == annotation.text
    return [(annotation.text, annotation.file_id) for annotation in annotations]


def test_a_citation_in_a_markdown_link_is_annotated() -> None:
    text = "See [the table](sandbox:/mnt/data/x.csv)."
    assert cited(text, {"/mnt/data/x.csv": "file-1"}) == [("sandbox:/mnt/data/x.csv", "file-1")]


def test_every_place_that_cites_a_file_is_annotated_in_order() -> None:
    files = {"/mnt/data/a.csv": "file-a", "/mnt/data/b.csv": "file-b"}
    text = "sandbox:/mnt/data/b.csv, sandbox:/mnt/data/a.csv and sandbox:/mnt/data/b.csv"
    assert [file_id for _, file_id in cited(text, files)] == ["file-b", "file-a", "file-b"]


def test_indices_count_code_points() -> None:
    text = "图表 📈: sandbox:/mnt/data/图.png"
    (annotation,) = annotate(text, {"/mnt/data/图.png": "file-1"})
    assert (annotation.start_index, annotation.end_index) == (6, len(text))


def test_a_name_with_spaces_and_brackets_is_found() -> None:
    files = {"/mnt/data/my table (2).csv": "file-1"}
    assert cited("[x](sandbox:/mnt/data/my table (2).csv)", files) == [("sandbox:/mnt/data/my table (2).csv", "file-1")]


def test_the_end_of_a_sentence_does_not_belong_to_the_citation() -> None:
    assert cited("It is in sandbox:/mnt/data/x.csv.", {"/mnt/data/x.csv": "file-1"}) == [
        ("sandbox:/mnt/data/x.csv", "file-1")
    ]


def test_a_longer_name_is_not_taken_for_a_shorter_one() -> None:
    files = {"/mnt/data/x.csv": "file-1"}
    assert cited("sandbox:/mnt/data/x.csv.gz and sandbox:/mnt/data/x.csv2", files) == []
    both = files | {"/mnt/data/x.csv.gz": "file-2"}
    assert cited("sandbox:/mnt/data/x.csv.gz", both) == [("sandbox:/mnt/data/x.csv.gz", "file-2")]


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


def test_a_file_that_the_text_does_not_cite_is_attached() -> None:
    generated = generated_by([written("/mnt/data/a.csv", "file-a"), written("/mnt/data/b.csv", "file-b")])
    annotations = annotate("sandbox:/mnt/data/a.csv sandbox:/mnt/data/wrong.csv", dict(generated.files))
    assert [attachment.file_id for attachment in uncited(generated, annotations, set())] == ["file-b"]
