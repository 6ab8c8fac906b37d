"""The examples that need a language model, against one that answers by script."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.scripted_model import call, text
from tests.support.scripts import Script
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

FUNCTION_TOOL = Path(__file__).parents[2] / "examples" / "function_tool.py"


async def test_function_tool_gives_the_model_what_the_function_returned(
    server: ServerProcess, script: Callable[..., Script], tmp_path: Path
) -> None:
    model = script(call("get_weather", {"city": "Oslo"}), text("Yes, ", "take one."))

    ran = await asyncio.to_thread(_run, tmp_path, model.model, server.address)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == 'called get_weather {"city": "Oslo"}\nYes, take one.\n'
    assert model.requests[1].tool_texts == ["18 degrees and rain in Oslo"]


async def test_function_tool_tells_why_a_run_failed(
    server: ServerProcess, script: Callable[..., Script], tmp_path: Path
) -> None:
    ran = await asyncio.to_thread(_run, tmp_path, script().model, server.address)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("failed: ")


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUNCTION_TOOL), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
