import json
import subprocess
import sys
from pathlib import Path

from qiml.benchmark.records import TABLES

TOOL = Path(__file__).parents[2] / "tools/benchmark.py"


def test_quick_run_measures_everything(tmp_path):
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    command = [sys.executable, TOOL, "--quick", "--threads", "1"]
    subprocess.run([*command, "--json", numbers, "--page", page], check=True, cwd=tmp_path)
    results = json.loads(numbers.read_text())["results"]
    assert {r["kind"] for r in results} == {kind.__name__ for kind in TABLES}
    assert all(f"## {kind.title}" in page.read_text() for kind in TABLES)
    (waits,) = (r for r in results if r["what"].startswith("waits for the device"))
    assert waits["value"] == 0
