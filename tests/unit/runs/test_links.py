"""Links to files in a model's text, as they should be and as models write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afarensis_server.runs.links import find_links
from tests.support.calls import count_calls

FILES = {
    "/mnt/data/x.csv": "x",
    "/mnt/data/图表.csv": "chart",
    "/mnt/data/my table (2).csv": "table",
    "/mnt/data/a b.csv": "spaces",
    "/mnt/data/out/one.txt": "one",
    "/mnt/data/café.txt": "cafe",
    "/mnt/data/R&D.csv": "research",
    "/mnt/data/many/a.txt": "a",
    "/mnt/data/many/b.txt": "b",
}


def found(text: str, files: dict[str, str] = FILES) -> list[tuple[str, tuple[str, ...]]]:
    return [(text[link.start : link.end], link.file_ids) for link in find_links(text, files)]


@pytest.mark.parametrize(
    ("text", "link", "file_id"),
    [
        ("See [the table](sandbox:/mnt/data/x.csv).", "sandbox:/mnt/data/x.csv", "x"),
        ("It is in sandbox:/mnt/data/x.csv.", "sandbox:/mnt/data/x.csv", "x"),
        ("**sandbox:/mnt/data/x.csv**", "sandbox:/mnt/data/x.csv", "x"),
        ("_sandbox:/mnt/data/x.csv_", "sandbox:/mnt/data/x.csv", "x"),
        ("`sandbox:/mnt/data/x.csv`", "sandbox:/mnt/data/x.csv", "x"),
        ('<a href="sandbox:/mnt/data/x.csv">', "sandbox:/mnt/data/x.csv", "x"),
        ("![c](sandbox:/mnt/data/x.csv)", "sandbox:/mnt/data/x.csv", "x"),
        ("[x](sandbox:mnt/data/x.csv)", "sandbox:mnt/data/x.csv", "x"),
        ("[x](sandbox://mnt/data/x.csv)", "sandbox://mnt/data/x.csv", "x"),
        ("[x](/mnt/data/x.csv)", "/mnt/data/x.csv", "x"),
        ("[x](</mnt/data/x.csv>)", "/mnt/data/x.csv", "x"),
        ("[x](<sandbox:/mnt/data/a b.csv>)", "sandbox:/mnt/data/a b.csv", "spaces"),
        ("[x](file:///mnt/data/x.csv)", "file:///mnt/data/x.csv", "x"),
        ("[x](./x.csv)", "./x.csv", "x"),
        ("[x](x.csv)", "x.csv", "x"),
        ("[x](<a b.csv>)", "a b.csv", "spaces"),
        ("[x](./out/one.txt)", "./out/one.txt", "one"),
        ("[x](sandbox:x.csv)", "sandbox:x.csv", "x"),
        ("[x](sandbox:/x.csv)", "sandbox:/x.csv", "x"),
        ("[x](sandbox:/mnt/data/my table (2).csv)", "sandbox:/mnt/data/my table (2).csv", "table"),
        ("[x](sandbox:/mnt/data/my%20table%20(2).csv)", "sandbox:/mnt/data/my%20table%20(2).csv", "table"),
        ("sandbox:/mnt/data/a%20b.csv", "sandbox:/mnt/data/a%20b.csv", "spaces"),
        ("sandbox:/mnt/data/%E5%9B%BE%E8%A1%A8.csv", "sandbox:/mnt/data/%E5%9B%BE%E8%A1%A8.csv", "chart"),
        ("图表 📈：sandbox:/mnt/data/图表.csv。", "sandbox:/mnt/data/图表.csv", "chart"),
        ("sandbox:/mnt/data/x.csv的内容", "sandbox:/mnt/data/x.csv", "x"),
        ("sandbox:/mnt/data/a%20b.csv的内容", "sandbox:/mnt/data/a%20b.csv", "spaces"),
        ("sandbox:/mnt/data/X.CSV", "sandbox:/mnt/data/X.CSV", "x"),
        ("sandbox:/mnt/data/./x.csv", "sandbox:/mnt/data/./x.csv", "x"),
        ("sandbox:/mnt/data/cafe\u0301.txt", "sandbox:/mnt/data/cafe\u0301.txt", "cafe"),
        ("sandbox:/mnt/data/R&amp;D.csv", "sandbox:/mnt/data/R&amp;D.csv", "research"),
        ("sandbox:/mnt/data/sub/x.csv", "sandbox:/mnt/data/sub/x.csv", "x"),
        ("sandbox:/mnt/data/one.txt", "sandbox:/mnt/data/one.txt", "one"),
        ("[d](sandbox:/mnt/data/out/)", "sandbox:/mnt/data/out/", "one"),
        ("sandbox:/mnt/data/out.", "sandbox:/mnt/data/out", "one"),
    ],
)
def test_link_is_found(text: str, link: str, file_id: str) -> None:
    assert found(text) == [(link, (file_id,))]


@pytest.mark.parametrize(
    "text",
    [
        "sandbox:/mnt/data/x.csv.gz",
        "sandbox:/mnt/data/x.csv2",
        "sandbox:/mnt/data/wrong.csv",
        "sandbox:/mnt/data/",
        "sandbox:/mnt/database/x.csv",
        "The file /mnt/data/x.csv is not linked.",
        "sandbox:/etc/passwd",
        "sandbox:/tmp/x.csv",
        "[x](https://example.com/mnt/data/x.csv)",
        "[x](https://example.com/x.csv)",
        "[x](elsewhere/x.csv)",
        "[x](/x.csv)",
        "[x](#x.csv)",
        "[x]()",
        "",
    ],
)
def test_what_leads_nowhere_is_no_link(text: str) -> None:
    assert found(text) == []


def test_links_come_in_order() -> None:
    text = "sandbox:/mnt/data/out/one.txt, sandbox:/mnt/data/x.csv and sandbox:/mnt/data/out/one.txt"
    assert [file_ids for _, file_ids in found(text)] == [("one",), ("x",), ("one",)]


def test_longer_name_is_not_taken_for_a_shorter_one() -> None:
    both = {"/mnt/data/x.csv": "short", "/mnt/data/x.csv.gz": "long"}
    assert found("sandbox:/mnt/data/x.csv.gz", both) == [("sandbox:/mnt/data/x.csv.gz", ("long",))]


def test_directory_leads_to_all_that_lies_in_it() -> None:
    assert found("sandbox:/mnt/data/many/") == [("sandbox:/mnt/data/many/", ("a", "b"))]


def test_last_part_that_two_files_share_leads_to_neither() -> None:
    files = {"/mnt/data/a/x.csv": "one", "/mnt/data/b/x.csv": "two"}
    assert found("sandbox:/mnt/data/x.csv", files) == []


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
_PIECES = st.sampled_from(
    [
        "sandbox:",
        "/mnt/data/",
        "mnt/data",
        "](",
        "(<",
        ">",
        ")",
        "%20",
        "&amp;",
        " ",
        "\n",
        ".",
        "/",
        "..",
        "é",
        "图",
        "A",
        "x.csv",
    ]
)


@given(st.lists(_PIECES | _NAMES, max_size=30).map("".join), st.lists(_NAMES, max_size=5))
def test_links_are_parts_of_the_text_and_do_not_overlap(text: str, names: list[str]) -> None:
    files = {f"/mnt/data/{name}": f"file-{number}" for number, name in enumerate(names)}
    end = 0
    for link in find_links(text, files):
        assert end <= link.start < link.end <= len(text)
        assert set(link.file_ids) <= set(files.values())
        end = link.end


@given(_NAMES.filter(lambda name: name not in (".", "..") and name.strip() == name))
def test_every_name_is_found_as_it_stands(name: str) -> None:
    assert found(f"[x](sandbox:/mnt/data/{name})", {f"/mnt/data/{name}": "file"})[0][1] == ("file",)


@pytest.mark.parametrize(
    "piece",
    [
        "sandbox:/mnt/data/",
        "](/mnt/data/x%20",
        "sandbox:/mnt/data/(((((.a.b.c.d",
        "sandbox:/mnt/data/....",
        "](<",
        "sandbox:/mnt/data/q.csv ",
        "sandbox:/mnt/data/" + "q" * 1_000 + " ",
        "](sandbox:/mnt/data/" + "((()" * 270,
        "sandbox:/mnt/data/" + "&amp;" * 200 + " ",
        "sandbox:/mnt/data/" + ".a图" * 300,
        "sandbox:/mnt/data/d ",
    ],
)
@pytest.mark.parametrize(
    "files",
    [
        [f"{'q' * number}.csv" for number in range(1, 1_000)],
        [f"{'d/' * 500}{number}.csv" for number in range(1_000)],
    ],
    ids=["lengths", "depths"],
)
def test_text_made_to_take_long_does_not(piece: str, files: list[str]) -> None:
    text = piece * (256_000 // len(piece))
    paths = {f"/mnt/data/{name}": f"file-{number}" for number, name in enumerate(files)}
    # Calls and not seconds, which are the machine's: without any one of the bounds some of these texts take 550,000 to
    # 50 million calls, and seconds.
    assert count_calls(find_links, text, paths) < 500_000
