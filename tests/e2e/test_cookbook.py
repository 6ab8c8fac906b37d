"""What the README says can be typed, typed: the grpcurl cookbook and the quickstart.

The commands run in bash as they stand, against a server that a process of its own serves. A stand-in for grpcurl hands
them to `buf curl`, which asks the server for the contract by reflection. What the README shows of an answer must be in
the answer; its ids stand for those of this run.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.grpcurl import documents
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = ROOT / "examples" / "quickstart.py"

_ID = re.compile(r"(asst_|thread_|msg_|run_|step_|call_|sess_|exec_|file-)[0-9a-z]{26}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_CUT = "…"

Ids = Mapping[str, str]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server.address


def test_each_command_of_the_cookbook_answers_what_the_readme_shows(target: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    grpcurl = tmp_path / "bin" / "grpcurl"
    grpcurl.parent.mkdir()
    grpcurl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/support/grpcurl.py" "$@"\n')
    grpcurl.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{grpcurl.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AFARENSIS_COOKBOOK_TARGET": target,
    }
    ids: Ids = {}
    assignments = ""

    for step in recipes():
        commands = in_this_run(step.commands, ids)
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", assignments + commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = f"{commands}\n{ran.stdout}{ran.stderr}"
        assert (ran.returncode == 0) is not step.shows_error, said
        if step.language == "json":
            matched = found_in_order(list(documents(step.shown)), list(documents(ran.stdout)), ids)
            assert matched is not None, f"README shows\n{step.shown}\nbut this was answered:\n{said}"
            ids = matched
        else:
            assert step.shown.strip() in ran.stdout + ran.stderr, said
        assignments += "".join(f"{line}\n" for line in commands.splitlines() if re.match(r"[A-Z]+=", line))

    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_quickstart_in_the_readme_is_the_file() -> None:
    (quoted,) = re.findall(r"^````python\n(.*?)^````$", README, re.DOTALL | re.MULTILINE)

    assert quoted == QUICKSTART.read_text(encoding="utf-8")


def test_quickstart_prints_the_answer_and_saves_its_files(target: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, QUICKSTART, target], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert "333 penguins without gaps" in ran.stdout
    assert "<" not in ran.stdout, "the repr of some object stands between the output"
    output = tmp_path / "demo-out"
    assert (output / "mass.csv").read_text() == "species,body_mass_g\nAdelie,3706.0\nChinstrap,3733.0\nGentoo,5092.0\n"
    (chart,) = output.glob("*.png")
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_links_of_the_documents_lead_somewhere() -> None:
    documents_here = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
    links = [
        (document, link)
        for document in documents_here
        for link in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in link
    ]

    assert [f"{document.name}: {link}" for document, link in links if not (document.parent / link).exists()] == []


# --- reading the README -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A block of commands, and what the README shows of the answer."""

    commands: str
    language: str = "text"
    shown: str = ""

    @property
    def shows_error(self) -> bool:
        return self.shown.startswith("ERROR:")


def recipes() -> list[Step]:
    """The steps of the cookbook, in order."""
    (section,) = re.findall(r"^## The same with grpcurl\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    steps: list[Step] = []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        if language == "sh":
            steps.append(Step(body))
        else:
            steps[-1] = Step(steps[-1].commands, language, body)
    assert len(steps) > 5, "the cookbook was not found"
    return steps


def in_this_run(commands: str, ids: Ids) -> str:
    """The commands with the README's ids replaced by those of this run."""
    return _ID.sub(lambda found: ids[found[0]], commands)


def found(shown: Any, answered: Any, ids: Ids) -> Ids | None:
    """Whether an answer holds what is shown: None, or the ids known now, the README's to this run's."""
    match shown:
        case dict():
            if not isinstance(answered, dict) or not shown.keys() <= answered.keys():
                return None
            known: Ids | None = ids
            for name, value in shown.items():
                if known is not None:
                    known = found(value, answered[name], known)
            return known
        case list():
            return found_in_order(shown, answered, ids) if isinstance(answered, list) else None
        case str() if isinstance(answered, str):
            return found_text(shown, answered, ids)
        case _:
            return ids if shown == answered else None


def found_in_order(shown: list[Any], answered: list[Any], ids: Ids) -> Ids | None:
    """The same for lists: each item that is shown is there, in this order; others may stand between them."""
    known: Ids = ids
    rest = iter(answered)
    for item in shown:
        for candidate in rest:
            if (matched := found(item, candidate, known)) is not None:
                known = matched
                break
        else:
            return None
    return known


def found_text(shown: str, answered: str, ids: Ids) -> Ids | None:
    if (named := _ID.fullmatch(shown)) is not None:
        if not answered.startswith(named[1]) or ids.get(shown, answered) != answered:
            return None
        return {**ids, shown: answered}
    if _TIME.fullmatch(shown):
        return ids if _TIME.fullmatch(answered) else None
    if shown.endswith(_CUT):
        return ids if answered.startswith(shown.removesuffix(_CUT)) else None
    return ids if shown == answered else None
