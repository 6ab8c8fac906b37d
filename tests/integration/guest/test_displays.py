import json
import struct
from pathlib import Path

import pytest

from .host import Guest

PNG = b"\x89PNG\r\n\x1a\n"


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(PNG)
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def needs(guest: Guest, module: str) -> None:
    if guest.run(f"import {module}").status != "ok":
        pytest.skip(f"{module} is not in this guest environment")


def test_a_data_frame_is_html_and_text(guest: Guest) -> None:
    needs(guest, "pandas")
    (bundle,) = guest.run("import pandas as pd\npd.DataFrame({'a': [1, 2]})").displays
    assert list(bundle) == ["text/html", "text/plain"]
    assert bundle["text/html"].count("<tr") == 3
    assert bundle["text/plain"] == "   a\n0  1\n1  2"


def test_a_pil_image_is_a_png(guest: Guest) -> None:
    needs(guest, "PIL")
    (bundle,) = guest.run("from PIL import Image\nImage.new('RGB', (30, 20), 'red')").displays
    assert png_size(bundle["image/png"]) == (30, 20)
    assert "image/jpeg" not in bundle


def test_a_formula_is_latex(guest: Guest) -> None:
    needs(guest, "sympy")
    (bundle,) = guest.run("import sympy\nsympy.sqrt(sympy.Symbol('x'))").displays
    assert bundle == {"text/latex": "$\\displaystyle \\sqrt{x}$", "text/plain": "sqrt(x)"}


def test_every_method_of_a_value_gives_a_form_richest_first(guest: Guest) -> None:
    code = """
class Rich:
    def _repr_html_(self): return "<b>"
    def _repr_svg_(self): return "<svg/>"
    def _repr_png_(self): return b"png", {"width": 1}
    def _repr_latex_(self): return "$x$"
    def _repr_markdown_(self): return None
    def _repr_json_(self): return {"a": [1]}
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "own", "application/vnd.x+json": {"z": 1}}, {}
    def __repr__(self): return "plain"
Rich()
"""
    (bundle,) = guest.run(code).displays
    assert list(bundle.items()) == [
        ("application/vnd.x+json", '{"z": 1}'),
        ("text/html", "<b>"),
        ("image/svg+xml", "<svg/>"),
        ("image/png", b"png"),
        ("text/latex", "$x$"),
        ("application/json", '{"a": [1]}'),
        ("text/plain", "own"),
    ]


def test_display_shows_each_value_at_once(guest: Guest) -> None:
    cell = guest.run("display(1, 'two')\nprint('three')")
    assert [kind for kind, _ in cell.events] == ["display", "display", "stdout"]
    assert [bundle["text/plain"] for bundle in cell.displays] == ["1", "'two'"]


def test_notebook_imports_work_without_ipython(guest: Guest) -> None:
    code = """
from IPython.display import display, HTML, Image, Markdown, clear_output
display(HTML("<b>bold</b>"))
display(Markdown("*a*"))
display({"text/plain": "raw"}, raw=True)
Image(data=b"\\x89PNG....")
"""
    bundles = guest.run(code).displays
    assert [next(iter(one.items())) for one in bundles] == [
        ("text/html", "<b>bold</b>"),
        ("text/markdown", "*a*"),
        ("text/plain", "raw"),
        ("image/png", b"\x89PNG...."),
    ]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("def __repr__(self): return 1 / 0", "<Bad object whose repr failed: ZeroDivisionError: division by zero>"),
        (
            "def __repr__(self): return None",
            "<Bad object whose repr failed: TypeError: __repr__ returned non-string (type NoneType)>",
        ),
        ("def __repr__(self): return repr(self)", "<Bad object whose repr failed: RecursionError: "),
        ("def _repr_html_(self): return 1 / 0\n    def __repr__(self): return 'fine'", "fine"),
        ("def _repr_png_(self): return 'not base64'\n    def __repr__(self): return 'fine'", "fine"),
        (
            "def _repr_mimebundle_(self, **_): return {3: 4, '\\n': 'x'}\n    def __repr__(self): return 'fine'",
            "fine",
        ),
        (
            "def __getattr__(self, name): return lambda *a, **k: 'anything'\n    def __repr__(self): return 'fine'",
            "fine",
        ),
        ("@property\n    def __class__(self): raise OSError\n    def __repr__(self): return 'fine'", "fine"),
        ("def __repr__(self): return '\\udc80'", "\\udc80"),
    ],
)
def test_a_value_that_cannot_be_shown_is_still_an_ok_cell(guest: Guest, body: str, shown: str) -> None:
    cell = guest.run(f"class Bad:\n    {body}\nBad()")
    assert cell.status == "ok"
    assert cell.shown.startswith(shown)


@pytest.mark.parametrize(
    "code",
    [
        "'x' * 10**8",
        "list(range(10**7))",
        "{i: i for i in range(10**6)}",
        "b'x' * 10**8",
        "[['y' * 10**7] * 500] * 500",
    ],
)
def test_a_giant_value_is_cut_short_with_a_note(guest: Guest, code: str) -> None:
    cell = guest.run(code)
    assert cell.status == "ok"
    assert len(cell.shown) < 70_000
    assert "..." in cell.shown


def test_a_display_too_large_for_a_frame_is_replaced_by_a_note(guest: Guest) -> None:
    code = "class Big:\n    def _repr_png_(self): return bytes(20_000_000)\n    def __repr__(self): return 'big'\nBig()"
    cell = guest.run(code)
    assert cell.displays == [
        {"text/plain": "big\n[image/png of 20000000 bytes is too large to show; save it to a file instead]"}
    ]


def test_plain_json_values_are_plain_text(guest: Guest) -> None:
    assert guest.run("{'a': [1, None]}").shown == "{'a': [1, None]}"


def test_figures_appear_at_the_end_of_the_cell_in_order(guest: Guest) -> None:
    needs(guest, "matplotlib")
    code = """
import matplotlib.pyplot as plt
plt.figure(figsize=(2, 1)); plt.plot([1, 2])
plt.figure(figsize=(4, 1)); plt.plot([1, 2])
print("printed first");
"""
    cell = guest.run(code)
    assert [kind for kind, _ in cell.events] == ["stdout", "display", "display"]
    narrow, wide = (png_size(bundle["image/png"]) for bundle in cell.displays)
    assert narrow[0] < wide[0]
    assert guest.run("plt.get_fignums()").shown == "[]"


def test_show_displays_in_place(guest: Guest) -> None:
    needs(guest, "matplotlib")
    cell = guest.run("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nprint('after')")
    assert [kind for kind, _ in cell.events] == ["display", "stdout"]


def test_another_choice_of_the_same_backend_changes_nothing(guest: Guest) -> None:
    needs(guest, "matplotlib")
    cell = guest.run(
        "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()"
    )
    assert (len(cell.displays), cell.stderr) == (1, "")


def saved_and_shown(guest: Guest, path: Path, between: str = "", name: str = "chart.png") -> tuple[bytes, bytes]:
    """A figure that was saved and then shown: the file, and what was displayed."""
    needs(guest, "matplotlib")
    file = path / name
    cell = guest.run(
        f"import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig({str(file)!r}, dpi=50)\n{between}\nplt.show()"
    )
    assert cell.status == "ok", cell
    (bundle,) = cell.displays
    shown = bundle["image/png"]
    assert isinstance(shown, bytes)
    return file.read_bytes(), shown


def test_a_figure_that_was_saved_is_shown_as_it_was_saved(guest: Guest, tmp_path: Path) -> None:
    saved, shown = saved_and_shown(guest, tmp_path)
    assert shown == saved


@pytest.mark.parametrize(
    "between",
    [
        "plt.title('changed')",
        "plt.gca().lines[0].set_color('red')",
        "plt.gcf().add_subplot(1, 2, 2)",
        "plt.gcf().set_facecolor('red')",
    ],
)
def test_a_figure_that_was_changed_after_it_was_saved_is_drawn_anew(guest: Guest, tmp_path: Path, between: str) -> None:
    saved, shown = saved_and_shown(guest, tmp_path, between)
    assert png_size(shown) != png_size(saved)


def test_a_figure_whose_file_became_another_is_drawn_anew(guest: Guest, tmp_path: Path) -> None:
    other = "first = plt.gcf()\nplt.figure(figsize=(1, 1)); plt.plot([1]); plt.savefig({!r}); plt.close()"
    saved, shown = saved_and_shown(guest, tmp_path, other.format(str(tmp_path / "chart.png")))
    assert png_size(saved) == (100, 100)
    assert png_size(shown)[0] > 300


def test_a_figure_that_was_saved_in_another_format_is_shown_as_png(guest: Guest, tmp_path: Path) -> None:
    saved, shown = saved_and_shown(guest, tmp_path, name="chart.pdf")
    assert saved.startswith(b"%PDF")
    assert png_size(shown)[0] > 300


def test_saving_to_where_nothing_can_be_saved_raises_as_ever(guest: Guest) -> None:
    needs(guest, "matplotlib")
    cell = guest.run("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.savefig('/nowhere/chart.png')")
    assert cell.error["name"] == "FileNotFoundError"
    assert "figures.py" not in cell.error["traceback"]


def test_a_figure_as_last_value_is_shown_once_and_again_in_a_later_cell(guest: Guest) -> None:
    needs(guest, "matplotlib")
    assert len(guest.run("import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1])\nfig").displays) == 1
    assert len(guest.run("ax.set_title('later')\nfig").displays) == 1


def test_an_empty_figure_is_not_shown(guest: Guest) -> None:
    needs(guest, "matplotlib")
    assert guest.run("import matplotlib.pyplot as plt\nplt.figure();").displays == []


def test_figures_of_a_failed_cell_do_not_appear_later(guest: Guest) -> None:
    needs(guest, "matplotlib")
    assert guest.run("import matplotlib.pyplot as plt\nplt.plot([1])\n1/0").displays == []
    assert guest.run("pass").displays == []


def test_a_figure_that_cannot_be_drawn_says_why(guest: Guest) -> None:
    needs(guest, "matplotlib")
    cell = guest.run("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.title(r'$\\nonsense$');")
    assert cell.status == "ok"
    assert "A figure could not be drawn: ValueError" in cell.stderr


def test_chinese_japanese_and_korean_titles_need_no_configuration(guest: Guest) -> None:
    needs(guest, "noto_cjk_sans_jp_regular")
    code = """
import matplotlib.pyplot as plt
def chart(**options):
    plt.plot([1, 2]); plt.title("销售额 売上高 매출액", **options); plt.show()
chart()
chart(fontweight="bold")
plt.rcParams["font.sans-serif"] = ["SimHei"]
chart()
plt.rcParams["font.family"] = "serif"
chart()
plt.rcdefaults()
chart()
"""
    cell = guest.run(code)
    # A character without a glyph is a warning.
    assert (len(cell.displays), cell.stderr) == (5, "")


def test_a_plot_by_pandas_is_shown(guest: Guest) -> None:
    needs(guest, "matplotlib")
    needs(guest, "pandas")
    cell = guest.run("import pandas as pd\npd.Series([1, 3, 2]).plot();")
    assert len(cell.displays) == 1
    assert json.dumps(sorted(cell.displays[0])) == '["image/png", "text/plain"]'
