"""Which images a prompt shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.runs.images import choose

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHA = "0" * 64


def stored(*sizes: int) -> dict[str, File]:
    files = [
        File(f"file-{number}", "default", NOW, f"{number}.png", FilePurpose.VISION, size, SHA, "image/png")
        for number, size in enumerate(sizes)
    ]
    return {file.id: file for file in files}


def chosen(files: dict[str, File], *, most: int = 10, image_bytes: int = 100, all_bytes: int = 1_000) -> list[str]:
    found, left_out = choose(files, files, NOW, most=most, image_bytes=image_bytes, all_bytes=all_bytes)
    assert len(found) + len(left_out) == len(files)
    return [file.id for file in found]


def test_the_first_are_chosen() -> None:
    assert chosen(stored(1, 1, 1), most=2) == ["file-0", "file-1"]


def test_too_large_an_image_makes_place_for_the_next() -> None:
    assert chosen(stored(1, 101, 1), most=2) == ["file-0", "file-2"]


def test_nothing_follows_the_image_for_which_there_is_no_room() -> None:
    """An older image in place of a newer one would be taken for the newest."""
    assert chosen(stored(60, 60, 30), all_bytes=100) == ["file-0"]


def test_model_is_told_of_what_it_does_not_see() -> None:
    files = stored(1, 101, 1, 1)
    files["file-2"] = replace(files["file-2"], expire_time=NOW - timedelta(seconds=1))
    _, left_out = choose([*files, "file-gone"], files, NOW, most=1, image_bytes=100, all_bytes=1_000)
    assert left_out == {
        "file-1": "[the image 1.png is too large to be shown: 101 bytes]",
        "file-2": "[the image file-2 was deleted]",
        "file-3": "[the image 3.png is left out to keep the prompt short]",
        "file-gone": "[the image file-gone was deleted]",
    }


def test_image_that_comes_again_counts_once() -> None:
    files = stored(60)
    found, _ = choose(["file-0", "file-0"], files, NOW, most=2, image_bytes=100, all_bytes=100)
    assert [file.id for file in found] == ["file-0"]
