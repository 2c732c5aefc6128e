import re
from pathlib import Path

import pytest
import torch

from qiml.config import load_config
from qiml.errors import ConfigError
from qiml.modeling.backbone import timm_arguments

CONFIGS = Path(__file__).parents[1] / "configs"
# The files of configs/studies themselves are no configs; tests/studies loads them.
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "studies")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_configs_load(path):
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE == "MonocularDetector3D"
    assert cfg.SEED == 444


def test_names_of_the_kitti_configs_say_what_they_switch_on():
    paths = list((CONFIGS / "kitti").glob("*_dla34*.yaml"))
    assert len(paths) >= 8
    for path in paths:
        cfg = load_config(str(path))
        suffix = path.stem.partition("dla34")[2]
        assert cfg.MODEL.QUASI_ISOMETRIC.ENABLED == ("_qi" in suffix)
        assert cfg.MODEL.OBJECT_DEPTH.ENABLED == ("_depth" in suffix)
        assert cfg.OUTPUT_DIR.endswith(path.stem)


def test_the_papers_recipe():
    cfg = load_config(str(CONFIGS / "kitti" / "monodle_dla34_qi_depth.yaml"))
    assert tuple(cfg.INPUT.SIZE) == (1280, 384)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR) == ("Adam", 1.25e-3)
    iterations_an_epoch = 3712 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.MAX_ITER == 140 * iterations_an_epoch
    assert cfg.SOLVER.WARMUP_ITERS == 5 * iterations_an_epoch
    qi = cfg.MODEL.QUASI_ISOMETRIC
    assert (qi.K, qi.B, qi.EPSILON, qi.WEIGHT) == (1.5, 0.5, 10.0, 0.5)


def test_gupnets_recipe():
    cfg = load_config(str(CONFIGS / "kitti" / "gupnet_dla34_qi_depth.yaml"))
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == (
        "Adam",
        1.25e-3,
        32,
    )
    iterations_an_epoch = 3712 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.MAX_ITER == 140 * iterations_an_epoch
    assert cfg.SOLVER.WARMUP_ITERS == 5 * iterations_an_epoch
    assert [step / iterations_an_epoch for step in cfg.SOLVER.STEPS] == [95, 125]
    assert cfg.SOLVER.TASK_LEARNING.ENABLED and cfg.INPUT.AUGMENTATION.CROP_DEPTH == "metric"
    assert list(cfg.INPUT.FILTER.CLASSES) == [] and cfg.INPUT.FILTER.MAX_DEPTH > 1000


def test_did_m3ds_recipe():
    cfg = load_config(str(CONFIGS / "kitti" / "did_m3d_dla34_qi_depth.yaml"))
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH) == ("Adam", 1e-3, 16)
    iterations_an_epoch = 3712 / solver.IMS_PER_BATCH
    assert solver.MAX_ITER == 150 * iterations_an_epoch
    assert solver.WARMUP_ITERS == 5 * iterations_an_epoch
    assert [step / iterations_an_epoch for step in solver.STEPS] == [95, 125]
    assert solver.TASK_LEARNING.ENABLED and solver.TASK_LEARNING.LENGTH == 140
    assert cfg.INPUT.AUGMENTATION.CROP_DEPTH == "metric"
    assert cfg.MODEL.BOX3D_HEAD.VISUAL_DEPTH == "box"
    assert list(cfg.INPUT.FILTER.CLASSES) == [] and cfg.INPUT.FILTER.MAX_DEPTH > 1000


@pytest.mark.parametrize("data", ["kitti", "waymo"])
def test_deviants_recipe(data):
    """GUPNet's, on another backbone; on KITTI in other batches."""
    names = ["deviant_dla34_qi_depth.yaml", "gupnet_dla34_qi_depth.yaml"]
    deviant, gupnet = (load_config(str(CONFIGS / data / name)) for name in names)
    assert deviant.MODEL.BACKBONE.pop("NAME") == "SteerableDLA"
    assert gupnet.MODEL.BACKBONE.pop("NAME") == "build_timm_backbone"
    assert tuple(deviant.MODEL.BACKBONE.STEERABLE.SCALES) == (0.83, 0.9, 1.0)
    assert deviant.MODEL == gupnet.MODEL and deviant.INPUT == gupnet.INPUT
    solver = deviant.SOLVER
    epoch, batch = {"kitti": (310, 12), "waymo": (1310, 40)}[data]
    assert solver.IMS_PER_BATCH == batch
    epochs, *steps = {"kitti": (140, 95, 125), "waymo": (30, 18, 26)}[data]
    assert solver.MAX_ITER == epochs * epoch and solver.WARMUP_ITERS == 5 * epoch
    assert solver.TASK_LEARNING.LENGTH == {"kitti": 0, "waymo": 140}[data]  # 0: the run's, 140
    assert list(solver.STEPS) == [step * epoch for step in steps]
    assert solver.TASK_LEARNING.ENABLED and solver.BASE_LR == 1.25e-3


def test_an_option_of_a_base_config_can_be_taken_away():
    """Of another network."""
    cfg = load_config(str(CONFIGS / "quickstart_deviant.yaml"))
    options = timm_arguments(cfg)["options"]
    assert options.keys() == {"channels"} and len(options["channels"]) == 6


def test_monocons_recipe():
    cfg = load_config(str(CONFIGS / "kitti" / "monocon_dla34_qi_depth.yaml"))
    assert (tuple(cfg.INPUT.SIZE), cfg.INPUT.RESIZE) == ((1248, 384), "pad")
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, tuple(solver.BETAS)) == (
        "AdamW",
        2.25e-4,
        (0.95, 0.99),
    )
    assert solver.MAX_ITER == 200 * 3712 / solver.IMS_PER_BATCH
    assert (solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY) == (2.0, 1e-5)
    assert solver.WEIGHT_DECAY_NORM == solver.WEIGHT_DECAY_BIAS == 0.0
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "full_model", 35.0)


def test_command_line_comes_after_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("VERSION: 2\nSEED: 5\nSOLVER: {MAX_ITER: 7}\n")
    cfg = load_config(str(path), ["SEED", "6", "INPUT.SIZE", "(64, 32)"])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.INPUT.SIZE) == (6, 7, (64, 32))
    assert load_config("").SOLVER.MAX_ITER != 7


def test_base_files_are_relative(tmp_path):
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSEED: 5\nSOLVER: {MAX_ITER: 7}\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\nSEED: 6\n")
    cfg = load_config(str(tmp_path / "mine.yaml"))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (6, 7)


def test_options_of_a_timm_model_are_free(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("VERSION: 2\nMODEL: {BACKBONE: {TIMM_OPTIONS: {anything: [1, 2]}}}\n")
    assert load_config(str(path)).MODEL.BACKBONE.TIMM_OPTIONS == {"anything": [1, 2]}


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_without_a_gpu_the_device_is_the_cpu(monkeypatch, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert load_config("").MODEL.DEVICE == device
    assert load_config("", ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (
            ["SOLVER.BASE_LRR", "1"],
            ["command line: SOLVER.BASE_LRR", "did you mean SOLVER.BASE_LR?"],
        ),
        (
            ["MODEL.NEK.UPSAMPLE", "learned"],
            ["MODEL.NEK.UPSAMPLE", "did you mean MODEL.NECK.UPSAMPLE?"],
        ),
        (["XYZZY", "1"], ["unknown config key", "README.md"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER", "many", "types"]),
        (["SOLVER.MAX_ITER", "1.5"], ["SOLVER.MAX_ITER"]),
        (["INPUT.SIZE", "96"], ["INPUT.SIZE"]),
        (["DATASETS.TRAIN", "kitti_train"], ["DATASETS.TRAIN"]),
        (["SOLVER.MAX_ITER"], ["odd number of words", "SOLVER.MAX_ITER"]),
        (["SEED", "1", "SOLVER.MAX_ITER"], ["odd number of words"]),
    ],
)
def test_wrong_override(overrides, hints):
    with pytest.raises(ConfigError) as caught:
        load_config("", overrides)
    for hint in hints:
        assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.QUASI_ISOMETRIC.FORM", "one_sided"),
        ("MODEL.QUASI_ISOMETRIC.DEPTH_SPACE", "inverse"),
        ("MODEL.QUASI_ISOMETRIC.DESCRIPTOR_SIZE", "4"),
        ("MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "head"),
        ("MODEL.CONTRASTIVE.NAME", "simclr"),
        ("INPUT.AUGMENTATION.CROP_DEPTH", "none"),
        ("MODEL.BOX3D_HEAD.ROI_SIZE", "1"),
        ("SOLVER.BIAS_LR_FACTOR", "-1.0"),
        ("SOLVER.WEIGHT_DECAY_NORM", "-1.0"),
        ("SOLVER.WEIGHT_DECAY_NORM", "abc"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-5.0"),
        ("SOLVER.STEPS", "(30, 10)"),
        ("INPUT.FILTER.MIN_DEPTH", "-5.0"),
        ("SOLVER.TASK_LEARNING.WINDOW", "2"),
        ("SOLVER.TASK_LEARNING.PERIOD", "-1"),
        ("INPUT.RESIZE", "stretch"),
        ("MODEL.BOX3D_HEAD.VISUAL_DEPTH", "lidar"),
        ("MODEL.OBJECT_DEPTH.TARGET", "lidar"),
        ("INPUT.AUGMENTATION.PHOTOMETRIC_FORM", "none"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"),
        ("MODEL.NECK.UPSAMPLE", "bilinear"),
        ("SOLVER.AMP.DTYPE", "float32"),
        ("INPUT.SIZE", "(100, 64)"),
        ("INPUT.SIZE", "(64, 0)"),
        ("INPUT.SIZE", "(64,)"),
        ("INPUT.SIZE", "('a', 'b')"),
        ("SEED", "-1"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("TEST.IMS_PER_BATCH", "0"),
        ("DATALOADER.NUM_WORKERS", "-1"),
    ],
)
def test_value_out_of_range(key, value):
    with pytest.raises(ConfigError, match=f"^{key}: found "):
        load_config("", [key, value])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SEED", "None", "something like 444"),
        ("MODEL.QUASI_ISOMETRIC.K", float("nan"), "numbers, not nan"),
        ("MODEL.QUASI_ISOMETRIC.EPSILON", "-1.0", "numbers of at least"),
        ("MODEL.OBJECT_DEPTH.WEIGHT", "-1.0", "from 0 to"),
        ("INPUT.AUGMENTATION.FLIP", "1.5", "from 0 to 1"),
        ("SOLVER.BASE_LR", "0.0", "above 0"),
        ("SOLVER.BETAS", "(0.9,)", "2 numbers"),
        ("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]", "above 0"),
        ("MODEL.BOX3D_HEAD.MEAN_SIZES", "[[1.0, 2.0]]", "something like"),
        ("INPUT.FILTER.LIDAR_POINTS", "('a', 1, 2)", "something like"),
        ("DATASETS.TRAIN", "(1,)", "something like ('kitti_train',)"),
        ("MODEL.DEVICE", "abacus", "values"),
    ],
)
def test_values_that_no_run_can_use(key, value, expected):
    with pytest.raises(ConfigError, match=rf"^{key}: found .*; expected .*{re.escape(expected)}"):
        load_config("", [key, value])


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("INPUT.RANDOM_FLIP", "none", "INPUT.AUGMENTATION.FLIP"),
        ("INPUT.CROP.ENABLED", "True", "INPUT.AUGMENTATION.CROP"),
        ("TEST.DETECTIONS_PER_IMAGE", "10", "MODEL.BOX3D_HEAD.TOP_K"),
    ],
)
def test_detectron2s_keys_that_nothing_reads(key, value, instead):
    with pytest.raises(ConfigError, match=rf"^{key}: found .* To mend it: set {instead}$"):
        load_config("", [key, value])


def test_limits_may_be_infinite():
    assert load_config("", ["INPUT.FILTER.MAX_DEPTH", float("inf")]).INPUT.FILTER.MAX_DEPTH > 1e9


@pytest.mark.parametrize(("key", "value"), [("K", "0.9"), ("B", "-0.1")])
def test_bounds_that_contradict_each_other(key, value):
    with pytest.raises(ConfigError, match=r"^MODEL\.QUASI_ISOMETRIC: found .*contradict"):
        load_config("", [f"MODEL.QUASI_ISOMETRIC.{key}", value])


@pytest.mark.parametrize(("key", "value"), [("TEMPERATURE", 0.0), ("MARGIN", -1.0), ("GAP", -0.5)])
def test_contrastive_values_that_cannot_work(key, value):
    with pytest.raises(ConfigError, match=rf"^MODEL\.CONTRASTIVE: found .*{key} {value}"):
        load_config("", [f"MODEL.CONTRASTIVE.{key}", str(value)])


@pytest.mark.parametrize("name", ["supcr", "rank_n_contrast", "triplet"])
def test_one_metric_loss_at_most(name):
    qi_on = str(CONFIGS / "kitti" / "monodle_dla34_qi.yaml")
    with pytest.raises(ConfigError, match=r"^MODEL\.CONTRASTIVE\.NAME: found .*QUASI_ISOMETRIC"):
        load_config(qi_on, ["MODEL.CONTRASTIVE.NAME", name])
    instead = ["MODEL.CONTRASTIVE.NAME", name, "MODEL.QUASI_ISOMETRIC.ENABLED", "False"]
    assert load_config(qi_on, instead).MODEL.CONTRASTIVE.NAME == name


@pytest.mark.parametrize(
    "text",
    [
        "MODEL: [1",  # not YAML
        "MODEL: {NEK: 3}",
        "MODEL: 3",
        "SEED: x",
        "- 1",
        "",
        "_BASE_: gone.yaml",
    ],
)
def test_malformed_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: found no such file"):
        load_config(str(tmp_path / "gone.yaml"))
