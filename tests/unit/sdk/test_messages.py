import afarensis
from afarensis import v1


def text_part(value: str, *places: tuple[str, str]) -> v1.MessageContent:
    part = v1.MessageContent(text=v1.TextContent(value=value))
    for place, file_id in places:
        start = value.index(place)
        annotation = part.text.annotations.add(text=place, start_index=start, end_index=start + len(place))
        annotation.file_path.file_id = file_id
    return part


def test_cited_files_are_replaced_by_their_links() -> None:
    text = text_part("[a](sandbox:/mnt/data/a) [b](sandbox:/mnt/data/b)", ("sandbox:/mnt/data/a", "file-a")).text

    assert (
        afarensis.resolve_annotations(text, lambda file_id: f"<{file_id}>") == "[a](<file-a>) [b](sandbox:/mnt/data/b)"
    )


def test_indexes_count_code_points_also_beyond_the_basic_plane() -> None:
    text = text_part("🐧🐧 → sandbox:/mnt/data/企鹅.csv ok", ("sandbox:/mnt/data/企鹅.csv", "file-a")).text

    assert afarensis.resolve_annotations(text, str.upper) == "🐧🐧 → FILE-A ok"


def test_place_without_a_link_stays() -> None:
    text = text_part("see sandbox:/mnt/data/a", ("sandbox:/mnt/data/a", "file-a")).text

    assert afarensis.resolve_annotations(text, lambda _: None) == "see sandbox:/mnt/data/a"


def test_parts_of_text_and_refusals_are_joined_by_lines() -> None:
    refusal = v1.MessageContent(refusal=v1.RefusalContent(value="No."))
    image = v1.MessageContent(image_file=v1.ImageFileContent(file_id="file-i"))

    assert afarensis.message_text(v1.Message(content=[text_part("one"), image, refusal])) == "one\nNo."


def test_each_file_of_a_message_is_listed_once() -> None:
    message = v1.Message(
        content=[
            v1.MessageContent(image_file=v1.ImageFileContent(file_id="file-i")),
            text_part("sandbox:/mnt/data/a", ("sandbox:/mnt/data/a", "file-a")),
        ],
        attachments=[v1.MessageAttachment(file_id="file-a"), v1.MessageAttachment(file_id="file-b")],
    )

    assert afarensis.message_file_ids(message) == ["file-i", "file-a", "file-b"]


def test_resolving_leaves_the_message_as_it_was() -> None:
    message = v1.Message(content=[text_part("see sandbox:/mnt/data/a", ("sandbox:/mnt/data/a", "file-a"))])

    assert afarensis.resolved_text(message, lambda _: "a.csv") == "see a.csv"
    assert afarensis.message_text(message) == "see sandbox:/mnt/data/a"
