"""What the zygote does once, so that every session starts with it done: imports, fonts, settings."""

import importlib
import importlib.util
import os
import sys
import tempfile
import threading
from dataclasses import replace
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

#: Fonts with Chinese, Japanese or Korean characters, best first. matplotlib falls back to those that are there.
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


def prepare() -> None:
    """Import what sessions commonly need and configure it. Leaves one thread and no open sockets."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp(prefix="matplotlib-"))
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    # A folder of compiled modules beside the user's files would be reported as a result.
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.dont_write_bytecode = True
    for name in WARM_MODULES:
        _import(name)
    _configure_fonts()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=5)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:
        return None  # absent or broken: user code that wants it sees why


def _font_directories() -> list[str]:
    specs = [importlib.util.find_spec(name) for name in FONT_PACKAGES]
    found = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return [*found, str(Path(sys.prefix, "share", "fonts"))]


def _configure_fonts() -> None:
    matplotlib, manager = _import("matplotlib"), _import("matplotlib.font_manager")
    if matplotlib is None or manager is None:
        return
    for directory in _font_directories():
        for path in manager.findSystemFonts(directory):
            manager.fontManager.addfont(path)
    fonts = {entry.name: entry for entry in manager.fontManager.ttflist}
    found = [name for name in CJK_FONTS if name in fonts]
    if found:
        manager.fontManager.ttflist += [
            replace(fonts[found[0]], name=name) for name in COMMON_CJK_NAMES if name not in fonts
        ]
        # matplotlib falls back along font.family, not along font.sans-serif.
        matplotlib.rcParams["font.family"] = ["sans-serif", *found]
        # rcdefaults() and styles go back to this one.
        matplotlib.rcParamsDefault["font.family"] = matplotlib.rcParams["font.family"]
