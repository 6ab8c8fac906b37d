"""``!command`` and ``%magic`` lines, for code written with notebooks in mind.

They are not Python, so that a cell with one does not parse. The line of the syntax error is rewritten to a call when it
looks like one of them, and the rest is left to the parser; a ``%`` inside an expression or a string is never touched.
"""

import ast
import os
import re
import resource
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from .display import Displays

#: The name that rewritten lines call. It lives in the namespace while a cell with such lines is compiled and run.
HANDLER = "__afarensis_magic__"

_LINE = re.compile(r"^(?P<indent>\s*)(?:(?P<target>[A-Za-z_][\w.,\s]*?)\s*=\s*)?(?P<mark>!!?|%)(?P<rest>[^\n]*)$")
#: Up to the magic of a whole cell: it may follow blank lines and comments alone.
_CELL = re.compile(r"(?:\s*(?:#[^\n]*)?\n)*\s*%%")
_NAMES = re.compile(r"\$\$|\$(?P<name>[A-Za-z_]\w*)|\{(?P<expression>[^{}]+)\}")
_INSTALL = re.compile(r"^\s*(?:\S*python\S*\s+-m\s+)?(?:pip|conda|mamba|uv|apt|apt-get)\d?\s+(?:\S+\s+)*?install\b")

_SHELL = "/bin/sh"

NO_INSTALL = (
    "Nothing can be installed here: the sandbox has no network. Use the packages that are there; "
    "importlib.metadata.distributions() lists them."
)


class MagicError(Exception):
    """A magic that does not work here, or that was called in a wrong way."""

    # Users know no other place for it; tracebacks name the module otherwise.
    __module__ = "builtins"


class Magics:
    """What ``!`` and ``%`` do, in one namespace."""

    def __init__(self, namespace: dict[str, Any], displays: Displays) -> None:
        self._namespace = namespace
        self._displays = displays
        self._line_magics: dict[str, Callable[[str], object]] = {
            "cd": self._cd,
            "conda": self._install,
            "env": self._env,
            "ls": self._ls,
            "matplotlib": lambda rest: None,  # figures are shown anyway
            "pip": self._install,
            "pwd": lambda rest: str(Path.cwd()),
            "time": self._time,
            "timeit": self._timeit,
        }
        self._cell_magics: dict[str, Callable[[str, str], object]] = {
            "bash": self._script,
            "sh": self._script,
            "time": lambda rest, body: self._time(body),
            "timeit": self._timeit_cell,
            "writefile": self._writefile,
        }

    def parse(self, source: str, filename: str) -> tuple[str, ast.Module]:
        """The source with its magic lines as calls, and parsed. Lines keep their numbers.

        Raises SyntaxError, ValueError, RecursionError or MemoryError, as parsing does.
        """
        if (start := _CELL.match(source)) is not None:
            source = self._rewrite_cell(source, start.end())
        while True:
            try:
                return source, ast.parse(source, filename)
            except SyntaxError as error:
                lines = source.split("\n")
                number = (error.lineno or 0) - 1
                call = self._call_of(lines[number]) if 0 <= number < len(lines) else None
                if call is None:
                    raise
                lines[number] = call
                source = "\n".join(lines)

    def run(self, mark: str, rest: str, body: str | None = None, *, assigned: bool = False) -> object:
        """What a rewritten line calls."""
        if mark.startswith("!"):
            if assigned or mark == "!!":
                return self._capture(rest)
            self._shell(rest)
            return None
        name, _, rest = rest.strip().partition(" ")
        if body is not None:
            if name not in self._cell_magics:
                self._unknown(f"%%{name}")
            return self._cell_magics[name](rest.strip(), body)
        if name not in self._line_magics:
            self._unknown(f"%{name}")
        return self._line_magics[name](rest.strip())

    def _call_of(self, line: str) -> str | None:
        match = _LINE.match(line)
        if match is None:
            return None
        self._namespace[HANDLER] = self.run
        target = match["target"]
        prefix = match["indent"] + (f"{target} = " if target else "")
        return f"{prefix}{HANDLER}({match['mark']!r}, {match['rest']!r}, assigned={target is not None})"

    def _rewrite_cell(self, source: str, start: int) -> str:
        before = source[:start]
        head, _, body = source[start:].partition("\n")
        self._namespace[HANDLER] = self.run
        return "\n" * before.count("\n") + f"{HANDLER}('%%', {head!r}, {body!r})"

    def _unknown(self, name: str) -> NoReturn:
        lines = " ".join(f"%{one}" for one in sorted(self._line_magics))
        cells = " ".join(f"%%{one}" for one in sorted(self._cell_magics))
        raise MagicError(f"{name} does not work here. These do: {lines} {cells}, and !command.")

    def _expand(self, command: str) -> str:
        """``$name`` and ``{expression}`` of the user's own names, as in IPython; anything else is the shell's."""

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            expression = match["name"] or match["expression"]
            try:
                tree = ast.parse(expression.strip(), mode="eval")
                names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
                if names and names <= self._namespace.keys():
                    return str(eval(compile(tree, "<magic>", "eval"), self._namespace))  # noqa: S307  # asked for
            except Exception:
                return match[0]  # not Python: awk's braces, for one
            return match[0]

        return _NAMES.sub(replace, command)

    def _shell(self, command: str) -> None:
        if _INSTALL.match(command):
            _say(NO_INSTALL)
            return
        process = self._start(command, None)
        self._namespace["_exit_code"] = self._finish(process, process.wait)

    def _script(self, _rest: str, body: str) -> None:
        self._shell(body)

    def _ls(self, rest: str) -> None:
        self._shell(f"ls {rest}")

    def _capture(self, command: str) -> list[str]:
        process = self._start(command, subprocess.PIPE)
        output, _ = self._finish(process, process.communicate)
        return bytes(output).decode(errors="replace").splitlines()

    def _start(self, command: str, stdout: int | None) -> subprocess.Popen[bytes]:
        if not Path(_SHELL).exists():
            raise MagicError("There is no shell in this sandbox.")
        # A group of its own: an interrupt must end the command and all that it started.
        return subprocess.Popen(  # noqa: S603  # a shell command is what the user wants to run
            [_SHELL, "-c", self._expand(command)], stdin=subprocess.DEVNULL, stdout=stdout, process_group=0
        )

    @staticmethod
    def _finish(process: subprocess.Popen[bytes], wait: Callable[[], Any]) -> Any:
        try:
            return wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            raise

    def _time(self, code: str) -> object:
        namespace = self._namespace
        tree = ast.parse(code, "<timed code>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        body = compile(tree, "<timed code>", "exec")
        expression = compile(ast.Expression(last.value), "<timed code>", "eval") if isinstance(last, ast.Expr) else None
        before, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        exec(body, namespace)  # noqa: S102  # as everywhere in the guest: it is the user's code
        value = eval(expression, namespace) if expression is not None else None  # noqa: S307  # the same
        wall = time.perf_counter() - wall
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        _say(f"CPU times: user {_duration(user)}, sys: {_duration(system)}, total: {_duration(user + system)}")
        _say(f"Wall time: {_duration(wall)}")
        return value

    def _timeit(self, code: str, setup: str = "pass") -> None:
        number, repeat = 0, 7
        while match := re.match(r"-(?P<option>[nr])\s*(?P<value>\d+)\s+", code):
            number, repeat = (int(match["value"]), repeat) if match["option"] == "n" else (number, int(match["value"]))
            code = code[match.end() :]
        if code.startswith("-"):
            raise MagicError("%timeit takes -n and -r alone here.")
        timer = timeit.Timer(code, setup, globals=self._namespace)
        if not number:
            number, _ = timer.autorange()
        runs = [one / number for one in timer.repeat(repeat, number)]
        mean = sum(runs) / len(runs)
        deviation = (sum((one - mean) ** 2 for one in runs) / len(runs)) ** 0.5
        _say(
            f"{_duration(mean)} ± {_duration(deviation)} per loop "
            f"(mean ± std. dev. of {repeat} runs, {number:,} loops each)"
        )

    def _timeit_cell(self, rest: str, body: str) -> None:
        options = re.match(r"(?:-[nr]\s*\d+\s*)*", rest)
        end = options.end() if options else 0
        self._timeit(f"{rest[:end].strip()} {body}".lstrip(), rest[end:] or "pass")

    def _install(self, rest: str) -> None:
        if rest.startswith(("list", "freeze", "show", "--version")):
            self._shell(f"{sys.executable} -m pip {rest}")
        else:
            _say(NO_INSTALL)

    def _path(self, text: str) -> Path:
        return Path(self._expand(text).strip("'\"")).expanduser()

    def _cd(self, rest: str) -> None:
        os.chdir(self._path(rest or "~"))
        _say(Path.cwd())

    def _env(self, rest: str) -> object:
        if not rest:
            return dict(os.environ)
        name, equals, value = rest.partition("=")
        if not equals:
            return os.environ.get(name)
        os.environ[name.strip()] = self._expand(value.strip())
        return None

    def _writefile(self, rest: str, body: str) -> None:
        append = rest.startswith("-a ")
        name = rest.removeprefix("-a ").strip()
        if not name:
            raise MagicError("%%writefile needs a file name.")
        path = self._path(name)
        existed = path.exists()
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(body)
        _say(f"{'Appending to' if append else 'Overwriting' if existed else 'Writing'} {path}")


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
