"""Configs, studies and their records, calibration for the demo, and what a report reads of a run."""

import json
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from hypothesis import strategies as st

from qiml.config import flat_config, load_config
from qiml.data.calibration import read_matrix
from qiml.data.catalog import register_datasets
from qiml.data.mapper import MonocularMapper
from qiml.engine.trainer import Trainer
from qiml.studies.records import read_records
from qiml.studies.study import load_study
from qiml.visualization.report_run import read_run
from tests.conftest import TINY_CONFIG
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.mutations import VALUES, WORDS, damaged_document, damaged_text

CONFIG = """\
VERSION: 2
MODEL:
  BACKBONE: {TIMM_NAME: resnet10t, TIMM_OPTIONS: {stem_width: 8}, PRETRAINED: False}
  BOX3D_HEAD: {HIDDEN_CHANNELS: 16, SCORE_THRESHOLD: 0.1}
  QUASI_ISOMETRIC: {ENABLED: True, K: 1.5, EPSILON: 10.0}
INPUT: {SIZE: [96, 64], FILTER: {CLASSES: [Car], LIDAR_POINTS: []}}
DATASETS: {TRAIN: ["kitti_train"], TEST: ["kitti_val"]}
SOLVER: {BASE_LR: 0.001, STEPS: [10, 20], BETAS: [0.9, 0.99], MAX_ITER: 30}
SEED: 3
"""
STUDY = {
    "title": "A study",
    "data": {"synthetic": {"size": "96x64", "train": 8, "val": 4, "seed": 3}},
    "groups": {"small": {"config": "configs/quickstart.yaml", "train_frames": 4, "overrides": {}}},
    "variants": {"qi": {"MODEL.QUASI_ISOMETRIC.K": 2.0}},
    "baseline": "qi",
    "seeds": [1, 2],
}
RECORD = '{"identity": "ab12", "measures": {"ap3d_0.5": 1.5}, "seed": 1}\n'
MATRIX = [[700.0, 0.0, 600.0], [0.0, 700.0, 180.0], [0.0, 0.0, 1.0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("settings")


def check_config(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    cfg = attempt("configs", lambda: load_config(str(file)), "")
    if cfg is not None:
        assert all(value == value for value in flat_config(cfg).values())  # no nan


@fuzz(120, data=damaged_text(CONFIG))
def test_configs(folder, data):
    check_config(folder / "a.yaml", data)


@fuzz(150, document=damaged_document(yaml.safe_load(CONFIG)))
def test_values_of_configs(folder, document):
    check_config(folder / "a.yaml", yaml.safe_dump(document).encode())


KEYS = (
    "SEED",
    "SOLVER.BETAS",
    "INPUT.SIZE",
    "MODEL.DEVICE",
    "MODEL.NECK.UPSAMPLE",
    "SOLVER",
    "A.B",
    "VERSION",
)


@fuzz(100, key=st.sampled_from(KEYS), value=st.sampled_from((*WORDS, *map(repr, VALUES))))
def test_overrides(key, value):
    attempt("overrides", lambda: load_config("", [key, value]), key)


def _own_keys() -> dict[str, object]:
    """The keys of the tiny config that are this project's, and some of Detectron2's that it reads."""
    own, theirs = flat_config(load_config(str(TINY_CONFIG))), flat_config(get_cfg())
    read = ("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "DATASETS.TRAIN", "SOLVER.BASE_LR")
    return {key: value for key, value in own.items() if key not in theirs or key in read}


NUMBERS, LISTS = (-1, 0, 10**9, None), ((), ("a",), (-1,), (0,) * 4, (None,), None)
ODD = {bool: (None, 3), int: NUMBERS, float: (-1.0, 0.0, 1e30, float("nan"), float("inf"), None)}


@fuzz(60, key=st.sampled_from(sorted(_own_keys())), changes=st.data())
def test_models_of_configs(key, changes):
    """What a config accepts can be built."""
    kind = type(_own_keys()[key])
    value = changes.draw(
        st.sampled_from(ODD.get(kind, LISTS if kind in (list, tuple) else ("nonsense", "", None)))
    )

    def build() -> tuple:
        cfg = load_config(str(TINY_CONFIG), [key, value])
        register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        model = Trainer.build_model(cfg)
        optimizer = Trainer.build_optimizer(cfg, model)
        return Trainer.build_lr_scheduler(cfg, optimizer), MonocularMapper(cfg, is_train=True)

    attempt("models of configs", build, key.rpartition(".")[2])


@pytest.mark.parametrize(
    "text",
    [
        "_BASE_: a.yaml\nSEED: 1\n",
        "_BASE_: [a.yaml, a.yaml]\n",
        "_BASE_: 3\n",
        "SEED: !!python/object/apply:os.getcwd []\n",
        "SEED: !!int ''\n",
        "- SEED\n",
        "",
    ],
)
def test_configs_that_run_in_circles_or_run_code(folder, text):
    path = folder / "a.yaml"
    path.write_text(text)
    assert attempt("configs", lambda: load_config(str(path)), path) is None


def check_study(folder: Path, data: bytes) -> None:
    path = folder / "mine.yaml"
    path.write_bytes(data)
    study = attempt("studies", lambda: load_study(path), path)
    if study is not None:
        cells = attempt("grids of studies", study.cells, "")
        assert cells is None or len(cells) == study.size > 0
        assert study.data.root.is_relative_to(study.data.root.parents[1])


@fuzz(80, data=damaged_text(yaml.safe_dump(STUDY)))
def test_studies(folder, data):
    check_study(folder, data)


@fuzz(120, document=damaged_document(STUDY))
def test_values_of_studies(folder, document):
    check_study(folder, yaml.safe_dump(document).encode())


@fuzz(120, data=damaged_text(RECORD * 3))
def test_records(folder, data):
    path = folder / "mine.jsonl"
    path.write_bytes(data)
    records = attempt("study records", lambda: read_records(path), path)
    # Only what lacks its end may be left out.
    assert records is None or len(records) == data.count(b"\n")


@fuzz(100, document=damaged_document({"camera_matrix": {"rows": 3, "data": MATRIX}}))
@pytest.mark.parametrize("name", ["m.json", "m.yaml"])
def test_matrices(folder, name, document):
    text = json.dumps(document, default=str) if name == "m.json" else yaml.safe_dump(document)
    check_matrix(folder / name, text.encode())


@fuzz(100, data=damaged_text(yaml.safe_dump(MATRIX)))
@pytest.mark.parametrize("name", ["m.json", "m.yaml"])
def test_texts_of_matrices(folder, name, data):
    check_matrix(folder / name, data)


@pytest.mark.parametrize(
    "text",
    [
        "&a {K: *a}",
        "&a [*a]",
        "a: &a [1, 1, 1, 1]\nb: &b [*a, *a, *a, *a]\nK: [*b, *b, *b, *b]",
        "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else '1'}]\n" for i in range(12))
        + "K: *x11",
        "K: !!int ''",
        "K: !!timestamp x",
        "K: !!bool x",
        "K: 2020-99-99",
    ],
)
def test_matrices_that_run_in_circles(folder, text):
    assert check_matrix(folder / "m.yaml", text.encode()) is None


def check_matrix(path: Path, data: bytes):
    path.write_bytes(data)
    matrix = attempt("camera matrices", lambda: read_matrix(path), path)
    if matrix is not None:
        assert matrix.shape == (3, 4) and matrix[0, 0] > 0
    return matrix


RUN = {
    "metrics.json": '{"iteration": 19, "total_loss": 3.5}\n{"iteration": 39, "total_loss": 2.5}\n',
    "config.yaml": "SEED: 1\nSOLVER: {MAX_ITER: 40}\n",
    "kitti_val.json": json.dumps(
        {
            "frames": 1,
            "order": ["easy"],
            "results": {},
            "min_overlap": {},
            "depth_errors": {},
            "curves": {},
        }
    ),
}


@fuzz(120, name=st.sampled_from(sorted(RUN)), changes=st.data())
def test_runs(folder, name, changes):
    run = folder / "run"
    run.mkdir(exist_ok=True)
    for each, text in RUN.items():
        (run / each).write_text(text)
    (run / name).write_bytes(changes.draw(damaged_text(RUN[name])))
    attempt("runs of a report", lambda: read_run(run), run)
