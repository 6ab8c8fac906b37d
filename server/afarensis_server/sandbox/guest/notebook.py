"""Names that code written for notebooks expects: ``display()``, and ``IPython.display`` where IPython is absent."""

import base64
import builtins
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from .display import Displays
from .figures import Figures

NO_INPUT = "input() does not work here: nobody can answer. Put the value into the code, or read it from a file."


def install(displays: Displays, figures: Figures) -> None:
    """Put ``display`` among the builtins, replace ``input``, and stand in for IPython.display."""

    def display(*values: object, raw: bool = False, **_options: object) -> None:
        """Show values in their richest form."""
        for value in values:
            if raw and isinstance(value, Mapping):
                displays.show_bundle(value)
            elif figures.is_figure(value):
                figures.show(value)
            else:
                displays.show(value)

    def input_(prompt: object = "", /) -> NoReturn:
        """There is no standard input in the sandbox."""
        raise EOFError(NO_INPUT)

    input_.__name__ = input_.__qualname__ = "input"
    builtins.display = display  # type: ignore[attr-defined]  # a name of our own
    builtins.input = input_
    sys.meta_path.append(_Finder(display))


class _Finder(MetaPathFinder, Loader):
    """Finds IPython and IPython.display after everybody else failed to."""

    def __init__(self, display: Any) -> None:
        self._display = display

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "IPython" or (fullname == "IPython.display" and path == []):
            return ModuleSpec(fullname, self, is_package=fullname == "IPython")
        return None

    def exec_module(self, module: ModuleType) -> None:
        contents: dict[str, object] = {"display": self._display}
        if module.__name__ == "IPython":
            # Libraries ask for these to find out that they are not in IPython.
            contents |= {"get_ipython": lambda: None, "version_info": (9, 0, 0), "__version__": "9.0.0"}
        else:
            contents |= {kind.__name__: kind for kind in (HTML, SVG, JSON, Markdown, Latex, Image)}
            contents["clear_output"] = _clear_output
        module.__dict__.update(contents)


def _clear_output(wait: bool = False) -> None:
    """What was shown stays: output is sent as it is made."""


class _Shown:
    """Data to display as one media type, from an argument or a file."""

    media_type = ""

    def __init__(
        self, data: Any = None, url: str | None = None, filename: str | None = None, **_options: object
    ) -> None:
        if url is not None or (isinstance(data, str) and data.startswith(("http://", "https://"))):
            raise ValueError("There is no network here; give the data or a file name.")
        if filename is not None:
            data = self._read(filename)
        self.data = data

    def _read(self, filename: str) -> Any:
        return Path(filename).read_text(encoding="utf-8")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        return {self.media_type: self.data}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class HTML(_Shown):
    media_type = "text/html"


class SVG(_Shown):
    media_type = "image/svg+xml"


class JSON(_Shown):
    media_type = "application/json"


class Markdown(_Shown):
    media_type = "text/markdown"


class Latex(_Shown):
    media_type = "text/latex"


class Image(_Shown):
    """An image from bytes or a file; the kind is told by its first bytes."""

    def __init__(
        self, data: Any = None, url: str | None = None, filename: str | None = None, **options: object
    ) -> None:
        if isinstance(data, str | os.PathLike):
            data, filename = None, os.fspath(data)
        super().__init__(data, url, filename, **options)
        head = bytes(self.data[:12]) if self.data else b""
        kinds = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"GIF8", "image/gif"))
        self.media_type = next((kind for magic, kind in kinds if head.startswith(magic)), "image/png")

    def _read(self, filename: str) -> Any:
        return Path(filename).read_bytes()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        return {self.media_type: base64.b64encode(self.data or b"").decode()}
