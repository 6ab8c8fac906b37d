"""What a newcomer sees first: `make demo`."""

import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_leaves_the_chart_and_the_summary_that_the_code_wrote(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    output = tmp_path / "demo-out"
    (chart,) = output.glob("*.png")
    assert chart.read_bytes().startswith(b"\x89PNG")
    with (output / "penguin_summary.csv").open(newline="") as summary:
        assert {row["species"]: round(float(row["mean_g"])) for row in csv.DictReader(summary)} == {
            "Adelie": 3701,
            "Chinstrap": 3733,
            "Gentoo": 5076,
        }
    assert "344 penguins, 11 of them with gaps" in demo.stdout
    assert "AFARENSIS_OPENAI_BASE_URL" in demo.stdout
