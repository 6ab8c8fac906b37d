"""matplotlib's figures as displays: at ``plt.show()`` and at the end of a cell, then closed."""

import functools
import io
import sys
from typing import Any

from .display import PLAIN, Displays, Representation, fit
from .plaintext import plain_text


class Figures:
    """Shows and closes the figures that pyplot holds. Without matplotlib nothing happens."""

    def __init__(self, displays: Displays) -> None:
        self._displays = displays
        self._hooked: Any = None

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

        pyplot.show = show  # type: ignore[attr-defined]  # matplotlib is not there when this is checked
        pyplot.Figure.show = show_one

    def show_all(self) -> None:
        """Display every open figure in the order of its number, and close it."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        try:
            for number in pyplot.get_fignums():
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
        buffer = io.BytesIO()
        figure.canvas.print_figure(
            buffer,
            format="png",
            dpi=figure.dpi,
            bbox_inches="tight",
            facecolor=figure.get_facecolor(),
            edgecolor=figure.get_edgecolor(),
        )
        return fit(
            [
                Representation("image/png", buffer.getvalue(), text=False),
                Representation(PLAIN, plain_text(figure).encode(), text=True),
            ]
        )
