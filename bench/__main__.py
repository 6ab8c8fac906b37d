"""Measures sessions and runs beside peers and floors, in one run; `make bench ARGS=--help` lists the options."""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .contenders import Arena, arena
from .figures import (
    append,
    attach,
    capacity,
    churn,
    first_output,
    http,
    length,
    memory,
    opening,
    output,
    run,
    tokens,
    transfer,
    unary,
    warm,
)
from .report import Figure, Machine, markdown

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "bench/results/latest.json"
_DOCUMENT = _ROOT / "docs/performance.md"
_BEGIN, _END = "<!-- make bench: begin -->\n", "<!-- make bench: end -->\n"

_FIGURES: dict[str, Callable[[Arena], AsyncIterator[Figure]]] = {
    "open": opening.measure,
    "warm": warm.measure,
    "output": output.measure,
    "memory": memory.measure,
    "attach": attach.measure,
    "run": run.measure,
    "first-output": first_output.measure,
    "tokens": tokens.measure,
    "unary": unary.measure,
    "http": http.measure,
    "transfer": transfer.measure,
    "events": append.measure,
    "length": length.measure,
    "churn": churn.measure,
    "capacity": capacity.measure,
}


def main(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    load = os.getloadavg()[0]
    figures = asyncio.run(_measure(options.only, options.effort))
    machine = Machine(
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
        processors=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
        load_before=load,
        load_after=os.getloadavg()[0],
    )
    _RESULTS.parent.mkdir(exist_ok=True)
    results = {"machine": machine.summary(), "figures": [figure.summary() for figure in figures]}
    _RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    table = markdown(figures, machine)
    sys.stdout.write(table)
    if options.write:
        _write(table)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only", type=_names, default=list(_FIGURES), help=f"measure only these of {', '.join(_FIGURES)}"
    )
    parser.add_argument("--effort", type=float, default=1.0, help="the part of the repetitions to do (default: 1, all)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in _FIGURES:
            raise argparse.ArgumentTypeError(f"there is no figure {name!r}")
    return names


async def _measure(names: Sequence[str], effort: float) -> list[Figure]:
    figures = []
    async with arena(effort) as contenders:
        for name in names:
            start = time.monotonic()
            figures += [figure async for figure in _FIGURES[name](contenders)]
            sys.stderr.write(f"{name}: measured in {time.monotonic() - start:.0f} s\n")
    return figures


def _write(table: str) -> None:
    before, _, rest = _DOCUMENT.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        sys.exit(f"{_DOCUMENT} has no place for the tables, between {_BEGIN.strip()} and {_END.strip()}")
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
