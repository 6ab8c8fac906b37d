"""Programs that were written for the Assistants API, unchanged but for their base URL."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_model import call, code, text
from tests.support.scripts import Script
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
DATA = "name,value\na,1\nb,2\nc,6\n"
PNG = "89504e470d0a1a0a"
CODE = """
import pandas as pd, matplotlib.pyplot as plt
table = pd.read_csv("/mnt/data/data.csv")
print(table["value"].mean())
table.plot(); plt.show()
table.describe().to_csv("/mnt/data/summary.csv")
""".strip()
ANSWER = "The mean is 3. See [the summary](sandbox:/mnt/data/summary.csv)."


async def run_program(command: list[str], server: ServerProcess) -> dict[str, Any]:
    """What a program printed, as JSON. It runs beside the scripted model, which this process serves."""
    environment = {**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-anything"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    found: dict[str, Any] = json.loads(printed)
    return found


def check_tutor(seen: dict[str, Any]) -> None:
    assert seen["status"] == "completed"
    assert seen["instructions"] == "Please address the user as Jane Doe. The user has a premium account."
    assert seen["answer"] == ANSWER
    assert seen["cited"] == ["sandbox:/mnt/data/summary.csv"] * 2
    assert seen["image"] == PNG
    assert seen["file"].startswith(",value\ncount,3.0\nmean,3.0\n")
    assert seen["input"] == CODE
    assert seen["outputs"] == ["logs", "image"]


async def test_program_of_the_first_version_runs(
    server: ServerProcess, script: Callable[..., Script], tmp_path: Path
) -> None:
    data = tmp_path / "data.csv"
    data.write_text(DATA)
    model = script(code(CODE), text(ANSWER)).model
    python = ROOT / ".openai-v1/bin/python"
    assert python.exists(), "make .openai-v1/.stamp makes it"
    seen = await run_program([str(python), str(PROGRAMS / "tutor_v1.py"), str(data), model], server)
    check_tutor(seen)
    assert seen["file_ids"] == [[seen["uploaded"]]] * 3
    assert (seen["assistant_files"], seen["message_files"]) == ([seen["uploaded"]], [seen["uploaded"]])
    assert seen["steps"] == ["message_creation", "tool_calls"]


async def test_program_of_the_second_version_runs(
    server: ServerProcess, script: Callable[..., Script], tmp_path: Path
) -> None:
    data = tmp_path / "data.csv"
    data.write_text(DATA)
    model = script(code(CODE), text(ANSWER)).model
    command = [sys.executable, "-W", "ignore", str(PROGRAMS / "tutor_v2.py"), str(data), model]
    seen = await run_program(command, server)
    check_tutor(seen)
    assert seen["file_ids"] == seen["thread_files"] == [seen["uploaded"]]
    assert seen["steps"] == ["tool_calls", "message_creation"]
    assert seen["usage"] == 240


async def test_node_sdk_streams_a_run_and_answers_its_function(
    server: ServerProcess, script: Callable[..., Script]
) -> None:
    if shutil.which("node") is None or not (ROOT / "tests/node/node_modules/openai").exists():
        pytest.skip("the Node SDK was not tested: there is no node or no npm here")
    turns = (code("for number in range(3): print(number)"), call("weather", {"city": "Bern"}), text("It is ", "sunny."))
    command = ["node", str(PROGRAMS / "stream.mjs"), str(ROOT / "tests/node"), script(*turns).model]
    seen = await run_program(command, server)
    assert (seen["status"], seen["text"], seen["final"]) == ("completed", "It is sunny.", "It is sunny.")
    assert seen["input"] == "for number in range(3): print(number)"
    assert seen["logs"] == "0\n1\n2\n"
    assert seen["asked"] == {"name": "weather", "arguments": '{"city": "Bern"}'}
    types = [made["type"] for made in seen["calls"]]
    assert "code_interpreter" in types
    expected = [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
    ]
    assert seen["events"][: len(expected)] == expected
    middle = seen["events"].index("thread.run.requires_action")
    assert seen["events"][middle + 1 : middle + 4] == [
        "thread.run.step.completed",
        "thread.run.queued",
        "thread.run.in_progress",
    ]
    assert seen["events"][-1] == "thread.run.completed"
