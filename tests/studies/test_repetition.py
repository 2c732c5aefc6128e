"""A repetition beside what it repeats."""

import sys
from pathlib import Path

import pytest

from qiml.studies.records import append_record
from qiml.studies.repetition import render_repetition
from qiml.studies.study import load_study
from tools import ablate

STUDY = Path(__file__).parents[2] / "configs" / "studies" / "main.yaml"
VARIANTS = ["none", "depth"]


def results(seeds, **shifts):
    """Runs whose measures spread over the seeds by 1, a variant's shifted."""
    found = {}
    for cell in load_study(STUDY).part(variants=VARIANTS, seeds=list(seeds)).cells():
        value = 30 + cell.seed % 3 + shifts.get(cell.variant, 0)
        measures = {"ap3d_0.3": value, "ap3d_0.5": 1.0, "depth_mae": None, "recall_2d": 60.0}
        place = {"study": "main", "group": cell.group, "variant": cell.variant, "seed": cell.seed}
        found[cell] = {
            **place, "identity": cell.identity, "measures": measures,
            "seconds": 60.0, "machine": "m", "threads": 1,
        }  # fmt: skip
    return found


def rows(text):
    return {
        line.split(" | ")[0][2:]: line.split(" | ")[1] for line in text.splitlines() if "`" in line
    }


@pytest.mark.parametrize("shift, outside", [(0, False), (9, True), (-9, True)])
def test_says_what_falls_outside(shift, outside):
    text = render_repetition(
        load_study(STUDY).part(variants=VARIANTS),
        results([4, 5, 6], depth=shift),
        results([1, 2, 3]),
    )
    found = rows(text)
    assert list(found) == ["`none`", "`depth`", "`depth` − `none`"]
    # Of 3 and 3 with standard deviation 1: 4.303 √(1/3 + 1/3).
    assert found["`none`"] == "31.00 (27.49 to 34.51)"
    shown = f"**{31 + shift:.2f}, outside**" if outside else "31.00"
    assert found["`depth`"] == f"{shown} (27.49 to 34.51)"
    shown = f"**{shift:+.2f}, outside**" if outside else "+0.00"
    assert found["`depth` − `none`"] == f"{shown} (+0.00 to +0.00)"
    assert "| n/a |" in text  # no depth error was measured


def test_two_runs_or_more_are_needed_to_say_where_others_fall():
    assert render_repetition(load_study(STUDY), results([4, 5]), results([1])) == ""


def test_seeds_that_are_not_new_are_left_out():
    study, stated = load_study(STUDY).part(variants=VARIANTS), results([1, 2, 3])
    assert render_repetition(study, stated, stated) == ""
    alone, mixed = (
        render_repetition(study, results(seeds), stated) for seeds in ([4, 5], [2, 3, 4, 5])
    )
    assert mixed == alone != ""


def test_a_row_of_its_own_is_set_beside_the_projects(tmp_path, monkeypatch, capsys):
    for folder, seeds in (("stated", [101, 102, 103]), ("mine", [7, 8])):
        for record in results(seeds).values():
            append_record(tmp_path / folder / "main.jsonl", record)
    monkeypatch.setattr(ablate, "RESULTS", tmp_path / "stated")

    def page(folder, *arguments):
        where = ["--results", str(tmp_path / folder), "--page", str(tmp_path / "page.md")]
        monkeypatch.setattr(sys, "argv", ["ablate.py", str(STUDY), "--render", *where, *arguments])
        ablate.main()
        return capsys.readouterr().out

    assert "### The repetition" not in page("stated")
    text = page("mine", "--variants", "none", "--seeds", "7", "8")
    assert rows(text.split("### The repetition")[1]) == {"`none`": "31.50 (27.07 to 34.93)"}
    assert "### The repetition" in (tmp_path / "page.md").read_text()
