"""matplotlib's figures as displays: at ``plt.show()`` and at the end of a cell, then closed."""

import functools
import io
import sys
import weakref
from pathlib import Path
from typing import Any

from .display import PLAIN, Displays, Representation, fit
from .plaintext import plain_text

#: Bytes up to which a saved picture is shown as it is.
_MAX_SAVED = 2 * 1024 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"


class Figures:
    """Shows and closes the figures that pyplot holds. Without matplotlib nothing happens.

    A figure that was saved as PNG is shown as it was saved: whoever compares the two finds one picture, not two.
    """

    def __init__(self, displays: Displays) -> None:
        self._displays = displays
        self._hooked: Any = None
        #: Where figures were saved last, and how the file was then.
        self._saved: weakref.WeakKeyDictionary[Any, tuple[Path, tuple[int, ...]]] = weakref.WeakKeyDictionary()

    def hook(self) -> None:
        """Make ``plt.show()`` and ``figure.show()`` display, once pyplot is imported."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or pyplot is self._hooked or not hasattr(pyplot, "show"):
            return
        self._hooked = pyplot

        @functools.wraps(pyplot.show)
        def show(*_args: object, **_options: object) -> None:
            self.show_all()

        @functools.wraps(pyplot.Figure.show)
        def show_one(figure: Any, *_args: object, **_options: object) -> None:
            self.show(figure)

        save_as_ever = pyplot.Figure.savefig

        @functools.wraps(save_as_ever)
        def save(figure: Any, fname: Any, *args: object, **options: object) -> None:
            save_as_ever(figure, fname, *args, **options)
            self._note_saved(figure, fname)

        pyplot.Figure.savefig = save
        pyplot.show = show  # type: ignore[attr-defined]  # matplotlib is not there when this is checked
        pyplot.Figure.show = show_one

    def show_all(self) -> None:
        """Display every open figure in the order of its number, and close it."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        numbers = pyplot.get_fignums()
        if not numbers:
            return
        try:
            for number in numbers:
                self.show(pyplot.figure(number))
        finally:
            self.discard_all()

    def discard_all(self) -> None:
        """Close the figures unseen: code that failed before it finished them will draw them again."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None and hasattr(pyplot, "close"):
            pyplot.close("all")

    def is_figure(self, value: object) -> bool:
        figure = sys.modules.get("matplotlib.figure")
        # Not isinstance(): it asks the value, which may be a proxy that fails.
        return figure is not None and issubclass(type(value), getattr(figure, "Figure", ()))

    def show(self, figure: Any) -> None:
        """Display one figure as PNG and close it, so that it is not shown again. An empty one is not shown."""
        try:
            if len(figure.get_children()) > 1:  # the background patch is always there
                self._displays.show_representations(self._draw(figure))
        except Exception as error:
            sys.stderr.write(f"A figure could not be drawn: {type(error).__name__}: {error}\n")
        finally:
            sys.modules["matplotlib.pyplot"].close(figure)

    def _draw(self, figure: Any) -> list[Representation]:
        picture = self._as_saved(figure)
        if picture is None:
            buffer = io.BytesIO()
            figure.canvas.print_figure(
                buffer,
                format="png",
                dpi=figure.dpi,
                bbox_inches="tight",
                facecolor=figure.get_facecolor(),
                edgecolor=figure.get_edgecolor(),
            )
            picture = buffer.getvalue()
        return fit(
            [
                Representation("image/png", picture, text=False),
                Representation(PLAIN, plain_text(figure).encode(), text=True),
            ]
        )

    def _note_saved(self, figure: Any, name: Any) -> None:
        """Remember where a figure was saved, until it is changed."""
        self._saved.pop(figure, None)
        if isinstance(name, (str, Path)):
            path = Path(name).absolute()
            if path.is_file():  # else matplotlib gave it a suffix
                self._saved[figure] = path, _state(path)
                # Saving itself touches the figure. What touches it from now on makes it stale again.
                figure.stale = False

    def _as_saved(self, figure: Any) -> bytes | None:
        """The picture that a figure was saved as; None when there is none, or one of them was changed since."""
        if figure not in self._saved or figure.stale:
            return None
        path, state = self._saved[figure]
        try:
            if _state(path) != state or path.stat().st_size > _MAX_SAVED:
                return None
            picture = path.read_bytes()
        except OSError:
            return None
        return picture if picture.startswith(_PNG) else None


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
