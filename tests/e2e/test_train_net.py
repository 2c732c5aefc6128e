"""train_net.py as a user runs it: what it writes, and what it says about wrong input."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import default_argument_parser

import train_net
from qiml.data.depth_map import write_depth_map
from qiml.data.kitti_format import KITTIObjects, read_objects
from qiml.errors import exit_on_error

pytestmark = pytest.mark.usefixtures("runs_in_process")
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny.yaml"
CAR = "Car 0 0 0 100 20 160 70 1.5 1.6 3.9 1 1.5 10 0"

# With the settings that its configs in configs/kitti give each.
REGIONS = ["INPUT.AUGMENTATION.CROP_DEPTH", "metric", "SOLVER.TASK_LEARNING.ENABLED", True]
HEADS = {
    "MonoDLEHead": [],
    "GUPNetHead": REGIONS,
    "DIDM3DHead": [*REGIONS, "SOLVER.TASK_LEARNING.LENGTH", 140],
}
HEADS["DEVIANT"] = HEADS["GUPNetHead"]


@pytest.fixture
def datasets(tmp_path, monkeypatch, kitti_folder):
    """Folder of DETECTRON2_DATASETS with `kitti` in it: two frames, in train and in val."""
    root = tmp_path / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    kitti_folder(root=root / "kitti")
    kitti_folder(root=root / "kitti", split="val")
    return root


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


@pytest.fixture
def train(output):
    """Run train_net.py's own code in this process: fast, without its imports."""

    def run(*arguments, config=TINY):
        arguments = [*map(str, arguments), "OUTPUT_DIR", str(output)]
        parser = default_argument_parser()
        return train_net.main(parser.parse_args(["--config-file", str(config), *arguments]))

    return run


@pytest.fixture
def fails(train, capfd, output):
    """Run it, see it fail as it should, and return the message."""

    def run(*arguments, **options):
        with pytest.raises(SystemExit) as caught, exit_on_error():
            train(*arguments, **options)
        assert caught.value.code == 2
        return check_failure(*capfd.readouterr(), output)

    return run


def check_failure(stdout, stderr, output):
    """One line, no traceback on screen or in the log, nothing half-written; returns the line."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert "Traceback" not in stdout + stderr
    written = {path.relative_to(output) for path in output.rglob("*")}
    assert written <= {Path("log.txt"), Path("config.yaml"), Path("metrics.json")} | {
        path for path in written if path.name.startswith("events.out.tfevents")
    }
    if Path("log.txt") in written:
        assert "Traceback" not in (output / "log.txt").read_text()
    assert "; expected " in errors[0] and "To mend it: " in errors[0]
    return errors[0].removeprefix("error: ")


def command(*arguments, output):
    """Run the script itself; returns (code, stdout, stderr)."""
    arguments = [sys.executable, "train_net.py", *map(str, arguments), "OUTPUT_DIR", str(output)]
    path = os.pathsep.join([str(ROOT / "projects" / "QIML"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def results(output, dataset):
    """{image id: detections} of the result files."""
    files = (output / "kitti_results" / dataset / "data").iterdir()
    return {file.stem: read_objects(file, scored=True) for file in files}


# --- Runs that succeed


def test_command_trains_and_evaluates(datasets, output):
    code, stdout, stderr = command(
        "--config-file", TINY, "SOLVER.MAX_ITER", 3, "DATALOADER.NUM_WORKERS", 1, output=output
    )
    assert code == 0, stderr
    assert "total_loss" in stdout and "eta" in stdout
    assert "KITTI evaluation over 2 frames" in stdout and "Depth errors" in stdout
    logged = set().union(*metrics(output))
    assert logged >= {"total_loss", "loss_metric", "loss_object_depth", "lr"}
    assert "bbox3d/Car/AP40_3d_moderate" in logged
    assert json.loads((output / "kitti_kitti_train.json").read_text())
    assert results(output, "kitti_train").keys() == {"000000", "000001"}
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 2
    assert not list(output.rglob(".tmp-*"))


def test_evaluation_alone(datasets, train, output):
    """With the weights and the threshold given on the command line; no training data needed."""
    train("SOLVER.MAX_ITER", 2)
    weights = output / "model_final.pth"
    before = weights.read_bytes()
    scores = train(
        "--eval-only", "MODEL.WEIGHTS", weights, "MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 0.0,
        "DATASETS.TRAIN", "('kitti_format:/nowhere:train',)", "DATASETS.TEST", "('kitti_val',)",
    )  # fmt: skip
    assert 0 <= scores["bbox3d"]["Car/AP40_3d_moderate"] <= 100
    detections = results(output, "kitti_val")
    assert [len(frame) for frame in detections.values()] == [50, 50]
    assert set(detections["000000"].types) <= {"Car", "Pedestrian", "Cyclist"}
    assert weights.read_bytes() == before
    # The old folder of results is replaced, not mixed.
    train("--eval-only", "MODEL.WEIGHTS", weights, "MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 1.0,
          "DATASETS.TEST", "('kitti_val',)")  # fmt: skip
    assert [len(frame) for frame in results(output, "kitti_val").values()] == [0, 0]


@pytest.mark.parametrize("name", ["supcr", "triplet"])
def test_contrastive_loss_trains_and_is_off_in_evaluation(datasets, train, output, name):
    """Also where the head lacks the regions that its descriptors would be pooled from."""
    loss = ("MODEL.QUASI_ISOMETRIC.ENABLED", False, "MODEL.CONTRASTIVE.NAME", name)
    train("SOLVER.MAX_ITER", 1, *loss)
    assert any("loss_metric" in line for line in metrics(output))
    weights = output / "model_final.pth"
    scores = train("--eval-only", "MODEL.WEIGHTS", weights, *loss,
                   "MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "roi")  # fmt: skip
    assert "Car/AP40_3d_moderate" in scores["bbox3d"]
    # What is written down is the run's config, not that of a model without its loss.
    assert f"NAME: {name}\n" in (output / "config.yaml").read_text()


def test_report_is_written_at_the_end(datasets, train, output):
    report = output / "report.html"
    train("SOLVER.MAX_ITER", 2, "TEST.REPORT", True)
    assert '"total_loss":[[1],' in report.read_text()  # written before it, metrics.json is whole
    report.unlink()
    train("--resume", "SOLVER.MAX_ITER", 2, "TEST.REPORT", False)
    assert not report.exists()
    weights = ("MODEL.WEIGHTS", output / "model_final.pth")
    train("--eval-only", *weights, "DATASETS.TEST", "('kitti_val',)", "TEST.REPORT", True)
    assert "kitti_val" in report.read_text()


def test_run_that_cannot_have_a_report_does_not_fail(kitti_folder, train, output):
    """Labels are not public, so there is nothing to tell."""
    root = kitti_folder()
    kitti_folder(split="test", root=root)
    train("SOLVER.MAX_ITER", 1, "DATASETS.TRAIN", f"('kitti_format:{root}:train',)",
          "DATASETS.TEST", f"('kitti_format:{root}:test',)", "TEST.REPORT", True)  # fmt: skip
    assert "No report is written" in (output / "log.txt").read_text()
    assert not (output / "report.html").exists()


def test_evaluation_resumes_from_the_last_checkpoint(datasets, train, output):
    train("SOLVER.MAX_ITER", 1)
    train("--eval-only", "--resume", "DATASETS.TEST", "('kitti_val',)")
    assert (output / "kitti_kitti_val.json").is_file()


def test_resume_goes_on(datasets, train, output):
    """To the same files as a run without a break."""
    train("SOLVER.MAX_ITER", 2)
    train("--resume", "SOLVER.MAX_ITER", 4)
    resumed = torch.load(output / "model_final.pth", weights_only=True)
    assert resumed["iteration"] == 3
    assert "Starting training from iteration 2" in (output / "log.txt").read_text()
    (output / "last_checkpoint").unlink()
    train("--resume", "SOLVER.MAX_ITER", 4)  # nothing to resume from: from the start
    whole = torch.load(output / "model_final.pth", weights_only=True)
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


@pytest.mark.parametrize(
    "head, metric, object_depth",
    [(head, both, both) for head in HEADS for both in (False, True)]
    + [("MonoDLEHead", True, False), ("MonoDLEHead", False, True)],
)
def test_every_head_with_the_losses(
    datasets, train, output, tiny_steerable, head, metric, object_depth
):
    """Trains, resumes and evaluates by config alone."""
    kind = tiny_steerable if head == "DEVIANT" else ["MODEL.BOX3D_HEAD.NAME", head]
    changes = [
        *kind, *HEADS[head], "DATASETS.TEST", "('kitti_val',)",
        "MODEL.QUASI_ISOMETRIC.ENABLED", metric, "MODEL.OBJECT_DEPTH.ENABLED", object_depth,
    ]  # fmt: skip
    train("SOLVER.MAX_ITER", 2, *changes)
    scores = train("--resume", "SOLVER.MAX_ITER", 3, *changes)
    assert "Starting training from iteration 2" in (output / "log.txt").read_text()
    assert 0 <= scores["bbox3d"]["Car/AP40_3d_moderate"] <= 100
    logged = {name for line in metrics(output) for name in line}
    assert ("loss_metric" in logged, "loss_object_depth" in logged) == (metric, object_depth)
    weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert any(name.startswith("object_depth_head.") for name in weights) == object_depth


def test_dense_depth_maps(datasets, train, fails, output):
    """One key away; where a frame has none, the run does not start."""
    dense = ["MODEL.BOX3D_HEAD.NAME", "DIDM3DHead", *REGIONS, "DATASETS.TEST", "()"]
    dense += ["MODEL.BOX3D_HEAD.VISUAL_DEPTH", "dense", "SOLVER.MAX_ITER", 2]
    maps = datasets / "kitti/training/depth_dense"
    write_depth_map(maps / "000000.png", np.full((96, 320), 9.5))
    message = fails(*dense)
    assert message.startswith(f"{datasets}/kitti/training/image_2/000001.png: found")
    assert "depth_dense/ID.png" in message
    write_depth_map(maps / "000001.png", np.full((90, 300), 9.5))
    train(*dense)
    assert all(np.isfinite(line["loss_depth"]) for line in metrics(output))


def test_seed_alone_decides(datasets, train, output):
    weights = []
    for seed in (5, 5, 6):
        train("SOLVER.MAX_ITER", 2, "SEED", seed, "DATASETS.TEST", "()")
        weights.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
    same = [
        all(torch.equal(value, other[name]) for name, value in weights[0].items())
        for other in weights[1:]
    ]
    assert same == [True, False]


def test_own_folder_of_jpegs(kitti_folder, train, output):
    root = kitti_folder(extension=".jpg")
    name = f"('kitti_format:{root}:train',)"
    scores = train("SOLVER.MAX_ITER", 2, "DATASETS.TRAIN", name, "DATASETS.TEST", name)
    assert "Car/AP40_3d_moderate" in scores["bbox3d"]
    assert len(list((output / "kitti_results").rglob("*.txt"))) == 2


def test_split_without_labels(kitti_folder, train, output):
    """As KITTI's test split: result files, no scores."""
    root = kitti_folder()
    kitti_folder(split="test", root=root)
    train(
        "SOLVER.MAX_ITER", 1, "DATASETS.TRAIN", f"('kitti_format:{root}:train',)",
        "DATASETS.TEST", f"('kitti_format:{root}:test',)",
    )  # fmt: skip
    assert len(list((output / "kitti_results").rglob("*.txt"))) == 2
    assert not list(output.glob("kitti_*.json"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_frames_without_objects_train_and_evaluate(datasets, kitti_folder, train, split, output):
    """Empty label files, and no label files, beside others."""
    root = kitti_folder(split=split, objects=KITTIObjects.empty(), root=output.parent / "empty")
    name = f"kitti_format:{root}:{split}"
    train("SOLVER.MAX_ITER", 2, "DATASETS.TRAIN", f"('kitti_train', '{name}')",
          "DATASETS.TEST", f"('{name}',)",
          "TEST.REPORT", True, "VIS_PERIOD", 1)  # fmt: skip
    assert (output / "report.html").exists() == (split == "train")


# --- Wrong input


def test_command_says_what_is_wrong_with_an_image(datasets, output):
    """In a data-loader process."""
    with open(datasets / "kitti/training/image_2/000001.png", "rb+") as file:
        file.truncate(2000)
    code, stdout, stderr = command(
        "--config-file", TINY, "DATALOADER.NUM_WORKERS", 1, output=output
    )
    assert code == 2
    message = check_failure(stdout, stderr, output)
    assert message.startswith(str(datasets / "kitti/training/image_2/000001.png"))
    assert "does not decode" in message


def test_missing_dataset_root(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    message = fails()
    assert message.startswith(str(tmp_path / "nowhere/kitti/training/image_2"))
    assert "no such folder" in message and "DETECTRON2_DATASETS" in message


@pytest.mark.parametrize("arguments", [(), ("--eval-only",)], ids=["training", "evaluation"])
@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_does_not_decode(datasets, fails, arguments, workers):
    """Also in a loader's process: left alive, it keeps the command from ending for half a minute."""
    with open(datasets / "kitti/training/image_2/000001.png", "rb+") as file:
        file.truncate(2000)
    before = multiprocessing.active_children()
    message = fails(*arguments, "DATALOADER.NUM_WORKERS", workers)
    assert message.startswith(f"{datasets}/kitti/training/image_2/000001.png: found")
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("image_2/000001.png", "no such file"),
        ("calib/000001.txt", "no such file"),
        ("label_2/000001.txt", "no such file"),
    ],
)
def test_missing_file_of_a_frame(datasets, fails, file, found):
    (datasets / "kitti/training" / file).unlink()
    message = fails()
    assert message.startswith(f"{datasets}/kitti/training/{file}: found {found}")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param(CAR.rsplit(" ", 1)[0], "14 columns", id="14 columns"),
        pytest.param(CAR + " 0.9 1", "17 columns", id="17 columns"),
        pytest.param(CAR.replace(" 10 ", " nan "), "'nan' as z", id="nan"),
        pytest.param(CAR.replace("1.6", "-1.6"), "h w l = 1.5 -1.6 3.9", id="negative size"),
        pytest.param(CAR.replace("Car", "Lorry"), "unknown class 'Lorry'", id="unknown class"),
    ],
)
def test_malformed_label_line(datasets, fails, line, found):
    label = datasets / "kitti/training/label_2/000001.txt"
    label.write_text(f"{CAR}\n{line}\n")
    before = label.read_bytes()
    message = fails()
    assert message.startswith(f"{label}:2: found {found}")
    assert label.read_bytes() == before


def test_calibration_without_p2(datasets, fails):
    path = datasets / "kitti/training/calib/000001.txt"
    path.write_text(path.read_text().replace("P2:", "P9:"))
    assert fails().startswith(f"{path}: found no line starting with 'P2:'")


def test_malformed_label_of_the_test_data_is_found_before_training(kitti_folder, datasets, fails):
    """Not after days of it."""
    root = kitti_folder()
    (root / "training/label_2/000001.txt").write_text(f"{CAR} 1 2\n")
    message = fails("DATASETS.TEST", f"('kitti_format:{root}:train',)")
    assert message.startswith(f"{root}/training/label_2/000001.txt:1: found 17 columns")


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (("SOLVER.MAX_ITER", "many"), "SOLVER.MAX_ITER"),
        (("SOLVER.MAX_ITR", 3), "SOLVER.MAX_ITR"),
        (("SOLVER.MAX_ITER",), "odd number"),
        (("INPUT.FILTER.CLASSES", "('Lorry',)"), "INPUT.FILTER.CLASSES: found 'Lorry'"),
        (("DATASETS.TRAIN", "('kiti_train',)"), "did you mean 'kitti_train'?"),
        (("DATASETS.TRAIN", "()"), "found no frames"),
        (("MODEL.BOX3D_HEAD.NUM_CLASSES", 1), "MODEL.BOX3D_HEAD.NUM_CLASSES: found 1; expected 3"),
        (("MODEL.BACKBONE.TIMM_NAME", "dla35"), "MODEL.BACKBONE.TIMM_NAME: found 'dla35'"),
        (("MODEL.BOX3D_HEAD.NAME", "Nothing"), "MODEL.BOX3D_HEAD.NAME: found 'Nothing'"),
        (("SOLVER.OPTIMIZER", "Nothing"), "SOLVER.OPTIMIZER: found 'Nothing'"),
        (("MODEL.WEIGHTS", "/nowhere/model.pth"), "/nowhere/model.pth: found no such file"),
        (("MODEL.BACKBONE.WEIGHTS", "/nowhere/dla34.pth"), "/nowhere/dla34.pth: found no such"),
    ],
)
def test_wrong_value(datasets, fails, overrides, where):
    assert where in fails(*overrides)


def test_nothing_to_learn_from(datasets, fails):
    """Every loss is defined without objects: all of the training would be for nothing."""
    message = fails("INPUT.FILTER.MIN_HEIGHT", 5000.0)
    assert "2 frames without an object to learn from" in message


def test_missing_config_file(fails, tmp_path):
    message = fails(config=tmp_path / "gone.yaml")
    assert message.startswith(f"{tmp_path}/gone.yaml: found no such file")


def test_checkpoint_of_another_architecture(datasets, train, fails, output, tmp_path):
    train("SOLVER.MAX_ITER", 1, "MODEL.NECK.UPSAMPLE", "learned", "DATASETS.TEST", "()")
    weights = tmp_path / "other.pth"
    (output / "model_final.pth").rename(weights)
    for path in output.iterdir():
        path.unlink()
    for arguments in (["--eval-only"], []):
        message = fails(*arguments, "MODEL.WEIGHTS", weights)
        assert message.startswith(f"{weights}: found 6 unknown weights")


def test_waymo_trains_and_evaluates(train, output, tmp_path, monkeypatch):
    from qiml.data.synthetic import write_dataset

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_dataset(tmp_path / "synthetic_waymo", 4, 2, (96, 64), workers=1, style="waymo")
    names = ["DATASETS.TRAIN", "('synthetic_waymo_train',)"]
    names += ["DATASETS.TEST", "('synthetic_waymo_val',)"]
    names += ["INPUT.FILTER.MIN_HEIGHT", 2.0]
    results = train(*names, "INPUT.FILTER.LIDAR_POINTS", "(100, 50, 50)")
    assert "mono_front_legacy" in results and "Vehicle/APH_L1" in results["official"]
    assert (output / "waymo_synthetic_waymo_val_official.json").exists()
