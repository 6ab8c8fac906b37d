"""What the zygote does once, so that every session starts with it done: imports, fonts, settings."""

import importlib
import importlib.util
import io
import os
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

#: Imported when they are there; each costs every session nothing, and memory once.
WARM_MODULES = (
    "asyncio",
    "multiprocessing",
    "numpy",
    "numpy.random",
    "pandas",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
)

#: Fonts with Chinese, Japanese or Korean characters, best first. Text falls back to the first that is there.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAexGothic",
    "NanumGothic",
)

#: Packages of the guest environment that hold font files.
FONT_PACKAGES = ("noto_cjk_sans_jp_regular",)

#: Names of fonts that scripts ask for by habit and that nobody may give away; the best font above answers to them.
COMMON_CJK_NAMES = (
    "SimHei",
    "SimSun",
    "Microsoft YaHei",
    "PingFang SC",
    "Heiti SC",
    "STHeiti",
    "Arial Unicode MS",
    "Hiragino Sans",
    "MS Gothic",
    "Yu Gothic",
    "Malgun Gothic",
    "AppleGothic",
)

_FIND = "_find_fonts_by_props"


def prepare() -> None:
    """Import what sessions commonly need and configure it. Leaves one thread and no open sockets."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    # A folder of compiled modules beside the user's files would be reported as a result.
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as directory:
        os.environ.setdefault("MPLCONFIGDIR", directory)
        for name in WARM_MODULES:
            _import(name)
        _configure_fonts()
        _rehearse_tables()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=5)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:
        return None  # absent or broken: user code that wants it sees why


def _rehearse_tables() -> None:
    """Do what most first cells do with a table: what that loads and builds once is shared by all sessions then."""
    pandas = _import("pandas")
    if pandas is None:
        return
    with suppress(Exception):  # whatever it is, user code that meets it sees it
        table = pandas.read_csv(io.StringIO("key,value\na,1\nb,2.5\na,3\n"))
        repr(table.groupby("key").sum())
        repr(table.merge(table, on="key").sort_values("value_x").describe())
        table.to_csv()


def _font_directories() -> list[str]:
    specs = [importlib.util.find_spec(name) for name in FONT_PACKAGES]
    found = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return [*found, str(Path(sys.prefix, "share", "fonts"))]


def _configure_fonts() -> None:
    manager = _import("matplotlib.font_manager")
    if manager is None:
        return
    fonts = manager.fontManager
    for directory in _font_directories():
        for path in manager.findSystemFonts(directory):
            fonts.addfont(path)
    by_name = {entry.name: entry for entry in fonts.ttflist}
    best = next((by_name[name] for name in CJK_FONTS if name in by_name), None)
    if best is None:
        return
    names = [best.name, *(name for name in COMMON_CJK_NAMES if name not in by_name)]
    # One weight answers for the bold one too, without a warning at each title.
    fonts.ttflist += [replace(best, name=name, weight=weight) for name in names for weight in (400, 700)]
    _fall_back(fonts, best.fname)


def _fall_back(fonts: Any, path: str) -> None:
    """Have every text fall back to one more font.

    The rcParams know a fallback as well, but any style or ``sns.set_theme()`` overwrites it; so the one method that all
    backends ask is wrapped, which is private to matplotlib.
    """
    find = getattr(fonts, _FIND, None)
    if find is None:
        return  # another matplotlib than the one of requirements/guest.txt

    @wraps(find)
    def find_with_fallback(*arguments: Any, **options: Any) -> list[str]:
        found: list[str] = find(*arguments, **options)
        return found if path in found else [*found, path]

    setattr(fonts, _FIND, find_with_fallback)
