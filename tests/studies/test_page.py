"""The tables of a study."""

from dataclasses import replace
from pathlib import Path

import pytest

from qiml.errors import ConfigError
from qiml.studies.page import NOT_SIGNIFICANT, render_study, replace_section
from qiml.studies.plot import plot_differences
from qiml.studies.records import finished
from qiml.studies.study import Cell, Group, Study, SyntheticData, load_study

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "configs" / "studies"
DATA = SyntheticData("96x64", 8, 4, 3)
STUDY = Study(
    "mine", "My study", "About it.", DATA, {"g": Group("c.yaml")},
    {"none": {}, "good": {}, "idle": {}}, "none", (1, 2, 3),
)  # fmt: skip


@pytest.fixture
def results():
    found = {}
    for variant, shifts in {"none": (0, 0, 0), "good": (5, 5.1, 4.9), "idle": (1, -1, 0.1)}.items():
        for seed, shift in zip((1, 2, 3), shifts, strict=True):
            cell = Cell("mine", "g", variant, seed, "c.yaml", (), DATA, 0, "x")
            values = {"ap3d_0.3": 30.0 + seed + shift, "ap3d_0.5": 10.0, "ap3d_0.7": 1.0}
            values |= {"depth_mae": 2.0, "depth_mae_40+": 4.0 - shift, "depth_bias": 0.5}
            found[cell] = {
                "measures": {**values, "recall_2d": 60.0 + shift},
                "seconds": 60.0, "machine": "m", "threads": 1,
            }  # fmt: skip
    return found


def test_tables_say_mean_spread_and_paired_differences(results):
    text = render_study(STUDY, results, "the command")
    assert "| `none` | 32.00 ± 1.00 |" in text
    good, idle = (
        next(line for line in text.splitlines() if line.startswith(f"| `{name}` | {start}"))
        for name, start in (("good", "**+5"), ("idle", "+0"))
    )
    assert "**+5.00 [+4.90, +5.10], 3 of 3**" in good
    assert NOT_SIGNIFICANT in idle and "2 of 3" in idle
    assert (
        "9 of 9 runs" in text and "`the command`" in text and "1.0 minutes a run (median)" in text
    )


def test_a_depth_error_stands_beside_how_many_were_found(results):
    header, _, baseline = render_study(STUDY, results, "c").split("| | ")[1].splitlines()[:3]
    assert header.endswith("depth error, m | found, % | seeds |")
    assert baseline.endswith("| 2.000 ± 0.000 | 60.0 ± 0.0 | 3 |")


def test_depth_errors_by_distance_beside_the_baselines(results):
    table = render_study(STUDY, results, "c").split("| | 40 m and more | bias | seeds |")[1]
    baseline, good = table.splitlines()[2:4]
    assert baseline == "| `none` | 4.000 ± 0.000 | 0.500 ± 0.000 | 3 |"
    assert good.startswith("| `good` | **-5.000 [-5.100, -4.900], 0 of 3** | +0.000")


def test_a_measure_that_not_all_runs_have_says_how_many_do(results):
    for cell, record in results.items():
        if cell.seed > 1:
            record["measures"]["depth_mae_calibrated"] = 1.0 + cell.seed
    rows = render_study(STUDY, results, "c").splitlines()
    assert any(row.endswith("| 3.500 ± 0.707 (2 seeds) | 3 |") for row in rows)


def test_feature_spaces_are_folded(results):
    assert "<details>" not in render_study(STUDY, results, "c")
    for record in results.values():
        record["measures"] |= {"neck_inside": 0.5, "depth_inside": 0.25}
    _, folded = render_study(STUDY, results, "c").split("<details>")
    folded, rest = folded.split("</details>")
    assert "Of means of neck features:" in folded and not rest.strip()
    assert folded.count("| `none` | ") == 2


def test_nothing_is_compared_with_what_the_baseline_has_not_measured(results):
    for cell, record in results.items():
        if cell.variant == "good":
            record["measures"]["depth_mae_calibrated"] = 1.0
    assert "calibrated" not in render_study(STUDY, results, "c")


@pytest.mark.parametrize(
    "counts, said",
    [
        ((0,), "seed 3."),
        ((4,), "seed 3, of which the first 4 train."),
        ((4, 2), "first 2 to 4 train."),
    ],
)
def test_says_how_many_of_the_frames_train(counts, said, results):
    groups = {f"g{count}": Group("c.yaml", train_frames=count) for count in counts}
    assert said in render_study(replace(STUDY, groups=groups), results, "c")


def test_says_which_runs_another_machine_computed(results):
    for cell, record in results.items():
        record["seconds"] = None
        if cell.variant == "idle":
            record["machine"] = "x, float32"
    text = render_study(STUDY, results, "c")
    assert (
        "minutes unknown, on m, 1 thread(s) a run; x, float32, 1 thread(s) a run (`idle`)." in text
    )


def test_an_unfinished_study_shows_what_there_is(results):
    some = {cell: r for cell, r in results.items() if cell.variant != "idle" and cell.seed < 3}
    text = render_study(STUDY, some, "c")
    assert "4 of 9 runs" in text and "idle" not in text


def test_without_the_baseline_there_are_no_differences(results):
    some = {cell: record for cell, record in results.items() if cell.variant == "good"}
    assert "| `good` | 37.00" in render_study(STUDY, some, "c")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_page_shows_its_records(path):
    """Else `tools/ablate.py STUDY --render` is missing after a change to records, study or tables."""
    page, study = (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), load_study(path)
    if f"<!-- study {study.name} -->" not in page:
        pytest.skip("not on the page yet")
    found = finished(study.cells(), ROOT / "docs" / "results")
    section = render_study(study, found, f"python tools/ablate.py configs/studies/{path.name}")
    assert section in page


def test_a_section_replaces_its_predecessor_alone():
    page = replace_section("# Results\n\nProse.\n", STUDY, "first\n")
    page = replace_section(page + "\nMore prose.\n", STUDY, "second \\1\n")
    assert "first" not in page and "second \\1" in page
    assert page.startswith("# Results\n\nProse.\n") and page.endswith("More prose.\n")
    assert page.count("<!-- study mine -->") == 1


def test_a_new_section_follows_the_last_one():
    page = replace_section("# Results\n", STUDY, "first\n") + "\nProse.\n"
    page = replace_section(page, replace(STUDY, name="other"), "second\n")
    page = replace_section(page, STUDY, "third\n")
    ends = [page.index(text) for text in ("third", "mine -->\n\n<!--", "second", "\n\nProse.\n")]
    assert ends == sorted(ends) and "first" not in page


def test_picture(results, tmp_path):
    assert plot_differences(STUDY, results, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
    baseline = {cell: record for cell, record in results.items() if cell.variant == "none"}
    assert not plot_differences(STUDY, baseline, tmp_path / "q.png")


def test_without_differences_there_is_no_table_of_them(results):
    alone = replace(STUDY, variants={"none": {}})
    text = render_study(alone, results, "c")
    assert "Differences" not in text and "Depth error by the car's distance" in text
    others = {cell: record for cell, record in results.items() if cell.variant != "none"}
    assert "Differences" not in render_study(STUDY, others, "c")


def test_half_a_pair_of_markers_is_refused():
    with pytest.raises(ConfigError, match="<!-- study mine --> alone"):
        replace_section("# Page\n<!-- study mine -->\nold\n", STUDY, "new\n")
