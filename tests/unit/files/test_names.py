import pytest

from afarensis_server.errors import InvalidFields
from afarensis_server.files.names import check_filename, check_media_type, media_type_of, output_filename
from afarensis_server.validation import Violations


def refusal(filename: str) -> str:
    violations = Violations()
    check_filename(violations, "filename", filename)
    with pytest.raises(InvalidFields) as refused:
        violations.check()
    ((violation),) = refused.value.violations
    assert violation.field == "filename"
    violation.description.encode()
    return violation.reason


@pytest.mark.parametrize(
    ("filename", "reason"),
    [
        ("", "REQUIRED"),
        (".", "INVALID_FORMAT"),
        ("..", "INVALID_FORMAT"),
        ("a/b", "INVALID_CHARACTER"),
        ("/etc/passwd", "INVALID_CHARACTER"),
        ("a\\b", "INVALID_CHARACTER"),
        ("a\x00", "INVALID_CHARACTER"),
        ("a\nb", "INVALID_CHARACTER"),
        ("a\x7f", "INVALID_CHARACTER"),
        ("a\x85", "INVALID_CHARACTER"),
        ("a\udcff.csv", "INVALID_CHARACTER"),
        ("x" * 256, "STRING_TOO_LONG"),
        ("漢" * 86, "STRING_TOO_LONG"),
    ],
)
def test_name_that_is_not_one_of_a_file_is_refused(filename: str, reason: str) -> None:
    assert refusal(filename) == reason


@pytest.mark.parametrize(
    ("filename", "said"),
    [("a/b", "contain '/' (U+002F), which is at index 1."), ("\x00", "contain U+0000, which is at index 0.")],
)
def test_character_that_can_be_shown_is_shown(filename: str, said: str) -> None:
    violations = Violations()
    check_filename(violations, "filename", filename)
    with pytest.raises(InvalidFields) as refused:
        violations.check()
    assert refused.value.violations[0].description == f"Invalid 'filename': a file name may not {said}"


@pytest.mark.parametrize("filename", ["x", "x" * 255, "漢" * 85, "...", ".env", "a b (2).csv", "-rf", "naïve 🙂.csv"])
def test_unusual_name_is_accepted(filename: str) -> None:
    violations = Violations()
    check_filename(violations, "filename", filename)
    violations.check()


SENT = "c cs cpp csv doc docx html java json md pdf php pptx py rb tex txt css js sh ts jpeg jpg gif pkl png tar xlsx"


@pytest.mark.parametrize("suffix", [*SENT.split(), "xml", "zip"])
def test_every_file_type_people_send_has_a_media_type(suffix: str) -> None:
    assert media_type_of(f"x.{suffix.upper()}") != "application/octet-stream"


@pytest.mark.parametrize(
    ("filename", "media_type"),
    [
        ("data.csv", "text/csv"),
        ("a.b.PNG", "image/png"),
        ("csv", "application/octet-stream"),
        ("data.", "application/octet-stream"),
        ("data.unheard-of", "application/octet-stream"),
        ("archive.tar.gz", "application/gzip"),
    ],
)
def test_media_type_is_that_of_the_last_suffix(filename: str, media_type: str) -> None:
    assert media_type_of(filename) == media_type


@pytest.mark.parametrize("media_type", ["csv", "text/", "text/csv\r\nX-Evil: 1", "a b/c", "t/" + "x" * 254, "é/x"])
def test_what_is_not_a_media_type_is_refused(media_type: str) -> None:
    violations = Violations()
    check_media_type(violations, "media_type", media_type)
    with pytest.raises(InvalidFields):
        violations.check()


@pytest.mark.parametrize("media_type", ["", "text/csv", "text/csv; charset=utf-8", "application/vnd.ms-excel"])
def test_media_type_is_accepted_with_parameters(media_type: str) -> None:
    violations = Violations()
    check_media_type(violations, "media_type", media_type)
    violations.check()


@pytest.mark.parametrize(
    ("path", "filename"),
    [
        ("/mnt/data/summary.csv", "summary.csv"),
        ("plots/a\tb.png", "a_b.png"),
        ("x\udcff.csv", "x_.csv"),
        ("", "file"),
        ("/mnt/data/", "file"),
        ("x" * 300 + ".csv", "x" * 251 + ".csv"),
        ("漢" * 100 + ".csv", "漢" * 83 + ".csv"),
        ("." * 300, "." * 255),
    ],
)
def test_output_keeps_its_name_as_far_as_it_can(path: str, filename: str) -> None:
    assert output_filename(path) == filename
    violations = Violations()
    check_filename(violations, "filename", output_filename(path))
    violations.check()
