"""A part of the fault table of docs/reliability.md, by the script that makes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        not (ROOT / "benchmarks" / "reliability.py").exists(), reason="the scripts are not part of this copy"
    ),
]
ROWS = [
    "any moment",
    "within",
    "half a file",
    "goes away",
    "stays away",
    "worker",
    "bad images",
    "every time",
]
ROWS += ["shared memory", "unreadable", "UTF-8"]


def reliability(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/reliability.py", "--quick", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_rows_of_the_fault_table_pass(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- faults -->\nold\n<!-- end of faults -->\nAfter.\n")
    done = reliability("--only", *ROWS, "--json", tmp_path / "rows.json", "--docs", page)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == len(ROWS)
    assert all(row["passed"] and row["times"] > 0 for row in rows)
    written = page.read_text().splitlines()
    assert (written[0], written[-1]) == ("Before.", "After.")
    assert "old" not in written
    assert [line.split(" | ")[0].removeprefix("| ") for line in written[4:-2]] == [r["name"] for r in rows]


@pytest.mark.slow
def test_a_row_that_fails_is_said_and_fails_the_command(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import reliability\n"
        "from fault_injection.trial import Failed\n"
        "def fails(trial): raise Failed('this and that')\n"
        "reliability.FAULTS = (reliability.Fault('one', 'so', fails),)\n"
        "sys.argv[1:] = ['--json', sys.argv[1]]\n"
        "sys.exit(reliability.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "FAILED  one, 0: this and that" in done.stdout
    assert not json.loads((tmp_path / "rows.json").read_text())["rows"][0]["passed"]
