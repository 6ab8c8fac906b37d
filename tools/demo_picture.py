"""Draw the README's pictures of the demo: runs it, and writes docs/images/demo.svg and docs/images/chart.png.

    python -m tools.demo_picture

The terminal's picture is the recorded output itself, from the start of the run to the end of its second step.
"""

import contextlib
import io
import re
import shutil
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

import afarensis
from afarensis import v1
from examples import demo
from examples.local_server import running_server
from examples.terminal import Terminal

IMAGES = Path(__file__).parents[1] / "docs" / "images"
#: Columns of the picture: the demo's code fits without breaks.
COLUMNS = 88
FIRST_HEADING = "Run the assistant"
STEPS = 2
# The template names a font on the web, which pictures on a page cannot load.
TEMPLATE = re.sub(r"\s*@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Recorder(Terminal):
    """Shows the demo to nobody, and keeps the part that the picture shows."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = Console(
            record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", highlight=False
        )
        self._elsewhere = Console(file=io.StringIO())
        self.console = self._elsewhere
        self._steps_seen = 0

    def heading(self, text: str) -> None:
        self.console = self.picture if text.startswith(FIRST_HEADING) else self._elsewhere
        super().heading(text)

    def show(self, event: v1.RunEvent) -> None:
        self._steps_seen += event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_STEP_CREATED
        if self._steps_seen > STEPS:
            self.console = self._elsewhere
        super().show(event)


def main() -> None:
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        demo.OUTPUT.mkdir()
        with (
            running_server(None, demo.OUTPUT / "server.log", recorder.fact) as target,
            afarensis.connect(target) as client,
        ):
            demo.run_scenario(client, "direct", recorder)
        (chart,) = demo.OUTPUT.glob("*.png")
        IMAGES.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(chart, IMAGES / "chart.png")
    # A fixed id: the same output makes the same file.
    recorder.picture.save_svg(str(IMAGES / "demo.svg"), title="make demo", code_format=TEMPLATE, unique_id="demo")


if __name__ == "__main__":
    main()
