"""How the demo looks: a run's events as lines and panels on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.syntax import Syntax
from rich.text import Text

import afarensis
from afarensis import v1

_RUN_STATUS = {
    v1.RUN_EVENT_TYPE_THREAD_RUN_CREATED: "run created",
    v1.RUN_EVENT_TYPE_THREAD_RUN_QUEUED: "run queued",
    v1.RUN_EVENT_TYPE_THREAD_RUN_IN_PROGRESS: "run in progress",
    v1.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED: "run completed",
    v1.RUN_EVENT_TYPE_THREAD_RUN_INCOMPLETE: "run incomplete",
    v1.RUN_EVENT_TYPE_THREAD_RUN_FAILED: "run failed",
    v1.RUN_EVENT_TYPE_THREAD_RUN_CANCELLED: "run cancelled",
    v1.RUN_EVENT_TYPE_THREAD_RUN_EXPIRED: "run expired",
}
_FILE_CHANGE = {
    v1.FILE_CHANGE_CREATED: "wrote",
    v1.FILE_CHANGE_MODIFIED: "changed",
    v1.FILE_CHANGE_DELETED: "deleted",
}


class Terminal:
    """Shows what happens, as it happens."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._steps = 0
        self._code = ""
        #: Whether the last output ended without a line break.
        self._line_is_open = False
        self._text = ""
        self._live: Live | None = None

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def fact(self, name: str, value: str) -> None:
        self.console.print(f"  [green]✓[/] {name:<10} [dim]{value}[/]")

    @contextmanager
    def transfer(self, name: str) -> Iterator[afarensis.Progress]:
        """A progress bar for one upload or download."""
        columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), DownloadColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=None)
            yield lambda done, size: progress.update(task, completed=done, total=size)

    def show(self, event: v1.RunEvent) -> None:
        """Show one event of a run."""
        match event.WhichOneof("payload"):
            case "run" if event.type in _RUN_STATUS:
                self.console.print(f"[dim]{event.sequence:>4}  {_RUN_STATUS[event.type]}[/]")
            case "run_step" if event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_STEP_CREATED:
                self._steps += 1
                kind = "code interpreter" if event.run_step.HasField("tool_calls") else "message"
                self.console.print(f"[dim]{event.sequence:>4}[/]  [bold]step {self._steps}[/] · {kind}")
            case "run_step_delta":
                for call in event.run_step_delta.tool_calls:
                    self._show_code_interpreter(call.code_interpreter)
            case "message_delta":
                self._show_writing(event.message_delta)
            case "message" if event.type == v1.RUN_EVENT_TYPE_THREAD_MESSAGE_COMPLETED:
                self._stop_writing()
            case _:
                pass

    def answer(self, text: str) -> None:
        """Show the final message."""
        self.console.print(
            Panel(Markdown(text, hyperlinks=False), title="message", title_align="left", border_style="green")
        )

    def close(self) -> None:
        self._stop_writing()

    def _show_code_interpreter(self, delta: v1.CodeInterpreterCallDelta) -> None:
        self._code += delta.input
        # The model sends code piece by piece; whatever else comes says that it is whole.
        if self._code and (delta.execution_id or delta.outputs or delta.HasField("result")):
            code = Syntax(self._code.strip("\n"), "python", theme="ansi_dark", word_wrap=True)
            self.console.print(Panel(code, title="python", title_align="left", border_style="blue"))
            self._code = ""
        for output in delta.outputs:
            match output.WhichOneof("item"):
                case "output":
                    is_error = output.output.stream == v1.OUTPUT_STREAM_STDERR
                    self._print_output(output.output.text, "red" if is_error else "")
                case "display":
                    self._show_display(output.display)
                case "file":
                    size = f" ({output.file.size_bytes:,} bytes)" if output.file.size_bytes else ""
                    self._note(f"{_FILE_CHANGE[output.file.change]} {output.file.path}{size}")
        if delta.HasField("result"):
            self._show_result(delta.result)

    def _print_output(self, text: str, style: str = "") -> None:
        """Print text as it comes, with a bar before each line; a line may come in several pieces."""
        for line in text.splitlines(keepends=True):
            if not self._line_is_open:
                self.console.print("      [blue]│[/] ", end="")
            self.console.print(Text(line.removesuffix("\n"), style), end="", soft_wrap=True)
            self._line_is_open = not line.endswith("\n")
            if not self._line_is_open:
                self.console.print()

    def _close_line(self) -> None:
        if self._line_is_open:
            self._print_output("\n")

    def _note(self, text: str) -> None:
        self._close_line()
        self.console.print(f"      [blue]└[/] [cyan]{text}[/]")

    def _show_display(self, display: v1.ExecutionDisplay) -> None:
        plain = ""
        for form in display.representations:
            if form.media_type.startswith("image/"):
                self._note(f"showed an image ({form.media_type})")
                return
            if form.media_type == "text/plain":
                plain = form.text
        self._close_line()
        self._print_output(plain + "\n", "cyan")

    def _show_result(self, result: v1.ExecutionResult) -> None:
        self._close_line()
        seconds = result.wall_duration.ToMilliseconds() / 1000
        if result.status == v1.EXECUTION_STATUS_OK:
            self._note(f"ok in {seconds:.2f} s")
        else:
            status = v1.ExecutionStatus.Name(result.status).removeprefix("EXECUTION_STATUS_").lower()
            self._print_output(f"{result.error.traceback or result.error.value}\n", "red")
            self._note(f"{status} after {seconds:.2f} s: {result.error.name}")

    def _show_writing(self, delta: v1.MessageDelta) -> None:
        self._text += "".join(part.text.value for part in delta.content if part.WhichOneof("content") == "text")
        if self.console.is_terminal and self._text:
            if self._live is None:
                self._live = Live(console=self.console, transient=True)
                self._live.start()
            self._live.update(Markdown(self._text))

    def _stop_writing(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._text = ""
