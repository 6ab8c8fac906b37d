"""What was measured, and how it is told: as JSON, and as Markdown."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a series is there for."""

    OURS = "ours"
    #: What others reach with the same task.
    PEER = "peer"
    #: What the parts cost that nobody could do without.
    FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Series:
    """One contender's values, a list for each round; the rounds of all contenders alternate."""

    name: str
    role: Role
    #: ``ms``, ``MB/s``, ``MB`` or ``per second``.
    unit: str
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return sorted(value for values in self.rounds for value in values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The value that 99 % do not exceed; the worst one while there are fewer than a hundred."""
        values = self.values
        return values[min(len(values) - 1, int(len(values) * 0.99))]

    def summary(self) -> dict[str, Any]:
        values = self.values
        return {
            "name": self.name,
            "role": self.role,
            "unit": self.unit,
            "count": len(values),
            "median": round(self.median, 4),
            "p99": round(self.p99, 4),
            "min": round(values[0], 4),
            "max": round(values[-1], 4),
            "rounds": [[round(value, 4) for value in values] for values in self.rounds],
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """How often one contender contains another, and what it should come to."""

    name: str
    #: One ratio for each round, of medians: what disturbs the machine for a while disturbs both.
    rounds: list[float]
    #: What is asked for: ``(">=", 150)``. None: nothing.
    target: tuple[str, float] | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        relation, bound = self.target
        return self.value >= bound if relation == ">=" else self.value <= bound

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "low": round(min(self.rounds), 4),
            "high": round(max(self.rounds), 4),
            "target": None if self.target is None else f"{self.target[0]} {self.target[1]:g}",
            "met": self.is_met,
        }


def ratio(name: str, above: Series, below: Series, target: tuple[str, float] | None = None) -> Ratio:
    """The medians of one series over those of another, round by round."""
    pairs = zip(above.rounds, below.rounds, strict=True)
    return Ratio(name, [statistics.median(upper) / statistics.median(lower) for upper, lower in pairs], target)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement with everything it is compared to."""

    title: str
    series: Sequence[Series]
    ratios: Sequence[Ratio] = ()
    #: What else is worth telling, such as where the time goes or which peer is absent.
    notes: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "series": [series.summary() for series in self.series],
            "ratios": [item.summary() for item in self.ratios],
            "notes": list(self.notes),
        }


def markdown(figures: Sequence[Figure], machine: "Machine") -> str:
    """Two tables, what is asked for and what was measured, and the notes."""
    lines = [f"Measured {machine.describe()}.", ""]
    lines += ["| ratio | measured | lowest and highest round | target | |", "| --- | --- | --- | --- | --- |"]
    verdicts = {None: "", True: "met", False: "**missed**"}
    for figure in figures:
        for item in figure.ratios:
            target = "" if item.target is None else f"{_relation(item.target[0])} {item.target[1]:g}"
            spread = f"{_short(min(item.rounds))} to {_short(max(item.rounds))}" if len(item.rounds) > 1 else ""
            lines.append(f"| {item.name} | {_short(item.value)} | {spread} | {target} | {verdicts[item.is_met]} |")
    lines += ["", "| what | | count | median | p99 | min |", "| --- | --- | --- | --- | --- | --- |"]
    for figure in figures:
        for series in figure.series:
            values = series.values
            numbers = " | ".join(f"{_short(value)} {series.unit}" for value in (series.median, series.p99, values[0]))
            lines.append(f"| {figure.title}: {series.name} | {series.role} | {len(values):,} | {numbers} |")
    for figure in figures:
        lines += ["", *(f"- {figure.title}: {note}" for note in figure.notes)] if figure.notes else []
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when it was measured."""

    time: str
    commit: str
    processors: int
    kernel: str
    python: str
    #: Processes that wanted a core in the last minute, before it began and when it ended.
    load_before: float
    load_after: float

    def describe(self) -> str:
        return (
            f"{self.time} at commit {self.commit}, {self.processors} cores, kernel {self.kernel}, "
            f"Python {self.python}, load {self.load_before:.1f} before and {self.load_after:.1f} after"
        )

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def _relation(sign: str) -> str:
    return "≥" if sign == ">=" else "≤"


def _short(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
