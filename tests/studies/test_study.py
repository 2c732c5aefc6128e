"""Study files and the grids they stand for."""

import json
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg

from qiml.config import flat_config, load_config
from qiml.errors import ConfigError
from qiml.studies.cell import prepare_data
from qiml.studies.study import FIRST_DEFAULTS, load_study

FIRST = Path(__file__).parents[1] / "golden" / "first_defaults.json"
STUDIES = Path(__file__).parents[2] / "configs" / "studies"
STUDY = {
    "title": "A study",
    "data": {"synthetic": {"size": "96x64", "train": 8, "val": 4, "seed": 3}},
    "groups": {
        "small": {"config": "configs/quickstart.yaml", "train_frames": 4},
        "large": {"config": "configs/quickstart.yaml", "overrides": {"SOLVER.MAX_ITER": 9}},
    },
    "variants": {"none": None, "qi": {"MODEL.QUASI_ISOMETRIC.K": 2.0}},
    "baseline": "none",
    "seeds": [1, 2],
}


@pytest.fixture
def write_study(tmp_path):
    def write(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        return path

    return write


def test_grid_is_groups_times_variants_times_seeds_seed_by_seed(write_study):
    cells = load_study(write_study()).cells()
    assert [cell.name for cell in cells] == [
        f"{group}/{variant}/seed{seed}"
        for seed in (1, 2)
        for group in ("small", "large")
        for variant in ("none", "qi")
    ]
    assert cells[3].overrides == ("SOLVER.MAX_ITER", "9", "MODEL.QUASI_ISOMETRIC.K", "2.0")


def test_identity_is_of_all_that_the_result_depends_on(write_study):
    def identities(**changes):
        return {c.name: c.identity for c in load_study(write_study(**changes)).cells()}

    before = identities()
    assert len({before[f"{g}/{v}/seed1"] for g in ("small", "large") for v in ("none", "qi")}) == 4
    assert before["small/qi/seed1"] == before["small/qi/seed2"]
    assert identities(title="Another title") == before
    changed = identities(variants={"none": None, "qi": {"MODEL.QUASI_ISOMETRIC.K": 3.0}})
    assert changed["small/none/seed1"] == before["small/none/seed1"]
    assert changed["small/qi/seed1"] != before["small/qi/seed1"]
    data = {"synthetic": {**STUDY["data"]["synthetic"], "seed": 4}}
    assert not set(identities(data=data).values()) & set(before.values())


def test_depth_maps_change_no_run_that_does_not_ask_for_them(write_study, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = {"synthetic": {**STUDY["data"]["synthetic"], "dense_depth": True}}
    variants = {"none": None, "dense": {"MODEL.BOX3D_HEAD.VISUAL_DEPTH": "dense"}}
    without, with_maps = (
        load_study(write_study(variants=variants, **change)) for change in ({}, {"data": data})
    )
    assert without.data.root != with_maps.data.root
    cells = with_maps.part(["small"], None, [1]).cells()
    assert cells[0].identity != cells[1].identity
    assert cells[0].identity == without.part(["small"], ["none"], [1]).cells()[0].identity
    prepare_data(cells[0])
    assert len(list((with_maps.data.root / "training" / "depth_dense").glob("*.png"))) == 12


def test_a_list_of_the_user_is_not_overwritten(write_study, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (cell,) = load_study(write_study()).part(["small"], ["none"], [1]).cells()
    mine = cell.data.root / "ImageSets" / "train_4.txt"
    prepare_data(cell)
    assert len(mine.read_text().split()) == 4
    prepare_data(cell)
    mine.write_text("000005\n")
    with pytest.raises(ConfigError, match=r"train_4.txt: found a list of other frames"):
        prepare_data(cell)
    assert mine.read_text() == "000005\n"


def test_a_value_equal_to_the_default_is_the_same_run(write_study):
    default = {"none": None, "qi": {"MODEL.QUASI_ISOMETRIC.K": 1.5}}
    cells = load_study(write_study(variants=default)).part(["small"], None, [1]).cells()
    assert cells[0].identity == cells[1].identity


def test_a_run_of_auto_is_the_run_of_what_it_stands_for(write_study):
    """Whatever else it may stand for later."""
    on = {"MODEL.QUASI_ISOMETRIC.ENABLED": True}
    named = {
        "MODEL.QUASI_ISOMETRIC.DESCRIPTOR": "depth",
        "MODEL.QUASI_ISOMETRIC.DEPTH_SPACE": "log",
    }
    study = load_study(write_study(variants={"none": on, "qi": {**on, **named}}))
    auto, by_name = study.part(["small"], None, [1]).cells()
    assert auto.identity == by_name.identity


def test_a_changed_default_renames_no_finished_run():
    """Defaults of the project's own keys, and of Detectron2's that it changes, as first studied."""
    first = json.loads(FIRST.read_text())
    now = json.loads(json.dumps(flat_config(load_config("")) | FIRST_DEFAULTS))
    changed = [key for key in first if now.get(key) != first[key]]
    assert not changed, f"add to FIRST_DEFAULTS what {changed} were before"
    new = {key: now[key] for key in now.keys() - first.keys() - flat_config(get_cfg()).keys()}
    assert not new, f"add to {FIRST.name}: {new}"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_have_runs_that_differ(path):
    study = load_study(path)
    cells = study.cells()
    assert len({(cell.group, cell.identity) for cell in cells}) * len(study.seeds) == len(cells)


def test_part_of_a_study(write_study):
    study = load_study(write_study()).part(["large"], ["qi"], [7])
    assert [cell.name for cell in study.cells()] == ["large/qi/seed7"]
    with pytest.raises(ConfigError, match=r"huge.*small, large"):
        study = load_study(write_study()).part(["huge"])


def test_compared_to_another_variant(write_study):
    assert load_study(write_study()).against("qi").baseline == "qi"
    with pytest.raises(ConfigError, match=r"found qj; expected some of none, qi"):
        load_study(write_study()).against("qj")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": []}, "different numbers"),
        ({"baseline": "nothing"}, "one of the variants none, qi"),
        ({"variants": {"a/b": None, "none": None}}, "it names folders"),
        ({"data": {"synthetic": {"size": "96x64"}}}, "title, data, groups"),
        ({"data": {"synthetic": {**STUDY["data"]["synthetic"], "dense_depth": 1}}}, "no bool"),
        ({"groups": {"small": {"confg": "x"}}}, "confg"),
        ({"variants": None}, "title, data, groups"),
    ],
)
def test_a_malformed_study_is_refused(write_study, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_study(write_study(**changes))


def test_a_missing_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_study(tmp_path / "none.yaml")


def test_an_unknown_key_of_a_variant_is_refused_before_anything_runs(write_study):
    with pytest.raises(ConfigError, match=r"MODEL\.QUASI_ISOMETRIC\.KK"):
        load_study(write_study(variants={"none": {"MODEL.QUASI_ISOMETRIC.KK": 1}})).cells()
