"""The demo from its command line; what it is made of has tests of its own."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from qiml.data.images import read_image
from qiml.data.kitti_format import KITTIObjects, read_objects, write_objects
from qiml.errors import CheckpointError, ConfigError, DatasetError
from qiml.visualization.video import video_writer
from tests.conftest import TINY_CONFIG
from tools import demo


@pytest.fixture
def data(kitti_folder):
    return kitti_folder() / "training"


@pytest.fixture
def weights(tiny_config, tmp_path):
    """Of an untrained detector, whose scores are about 0.1."""
    torch.manual_seed(0)
    path = tmp_path / "model.pth"
    torch.save({"model": build_model(tiny_config()).state_dict()}, path)
    return ("--config-file", TINY_CONFIG, "--weights", path)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the demo into `tmp_path / "out"`; returns what it printed."""

    def run(*arguments: object) -> str:
        words = [str(word) for word in ("--output", tmp_path / "out", *arguments)]
        monkeypatch.setattr(sys, "argv", ["demo.py", *words])
        demo.run(demo.parse_arguments())
        return capsys.readouterr().out

    return run


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_labels_are_drawn_and_compared_with_their_2d_boxes(data, run, tmp_path):
    printed = run("--labels", data / "label_2", "--calib", data / "calib", data / "image_2")
    assert "2 frames, 6 objects" in printed and "drawing" in printed
    line = next(line for line in printed.splitlines() if line.strip().startswith("Car"))
    assert "least 1.000" in line and ">= 0.95: 100.0 %" in line
    out = tmp_path / "out"
    names = [f"{kind}/00000{i}{end}" for kind, end in (("kitti", ".txt"), ("pictures", ".jpg"))
             for i in (0, 1)]  # fmt: skip
    assert files(out) == ["detections.json", *names]
    written = read_objects(out / "kitti" / "000001.txt", scored=False)
    assert written.types.tolist() == ["Car", "Pedestrian", "Cyclist"]


def test_a_detector_on_frames_of_different_sizes(data, weights, run, tmp_path):
    cv2.imwrite(str(data / "image_2" / "small.png"), np.zeros((60, 100, 3), dtype=np.uint8))
    options = (
        "--focal",
        180,
        "--score-threshold",
        0,
        "--batch-size",
        3,
        "--classes",
        "Car,Cyclist",
    )
    printed = run(*weights, *options, data / "image_2", "--opts", "MODEL.BOX3D_HEAD.TOP_K", 20)
    assert "3 frames" in printed and "inference" in printed and "IoU" not in printed
    frames = json.loads((tmp_path / "out" / "detections.json").read_text())["frames"]
    assert [(f["width"], f["height"]) for f in frames] == [(320, 96), (320, 96), (100, 60)]
    kinds = {found["class"] for frame in frames for found in frame["objects"]}
    assert kinds and kinds <= {"Car", "Cyclist"}
    assert read_image(str(tmp_path / "out" / "pictures" / "small.jpg")).shape[1] > 1000


def test_a_detector_beside_labels_on_a_video(data, weights, run, tmp_path):
    with video_writer(tmp_path / "drive.mp4", fps=5) as append:
        for number in range(3):
            append(read_image(str(data / "image_2" / "000000.png")))
            label = tmp_path / "labels" / f"drive_{number:06d}.txt"
            write_objects(label, read_objects(data / "label_2" / "000000.txt", scored=False))
    options = ("--calib", data / "calib" / "000000.txt", "--view", "beside", "--max-frames", 2)
    run(*weights, *options, "--labels", tmp_path / "labels", tmp_path / "drive.mp4")
    capture = cv2.VideoCapture(str(tmp_path / "out" / "drive.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2 and capture.get(cv2.CAP_PROP_FPS) == 5
    assert capture.get(cv2.CAP_PROP_FRAME_HEIGHT) > 2 * 384
    assert files(tmp_path / "out" / "kitti") == ["drive_000000.txt", "drive_000001.txt"]


def test_results_are_drawn_from_their_threshold_on(data, run, tmp_path):
    labels = read_objects(data / "label_2" / "000000.txt", scored=False)[:2]
    results = KITTIObjects(labels.types, labels.values.copy())
    results.score[:] = (0.9, 0.3)
    write_objects(tmp_path / "results" / "000000.txt", results)
    options = ("--labels", tmp_path / "results", "--calib", data / "calib")
    image = data / "image_2" / "000000.png"
    assert "1 frames, 2 objects" in run(*options, image)
    assert "1 frames, 1 objects" in run(*options, image, "--score-threshold", 0.5)


def test_nothing_half_written_stays_when_a_video_fails_midway(data, run, tmp_path):
    image = read_image(str(data / "image_2" / "000000.png"))
    with video_writer(tmp_path / "drive.mp4", fps=5) as append:
        append(image)
        append(image)
    write_objects(tmp_path / "labels" / "drive_000000.txt", KITTIObjects.empty())
    with pytest.raises(DatasetError, match=r"drive_000001\.txt"):
        run("--labels", tmp_path / "labels", "--focal", 180, tmp_path / "drive.mp4")
    assert files(tmp_path / "out") == ["kitti/drive_000000.txt"]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((), ConfigError, "found nothing to draw"),
        (("--weights", "model.pth"), ConfigError, "found only --weights"),
        (("LABELS", "--view", "beside"), ConfigError, "nothing to compare"),
        (("LABELS", "--batch-size", "0"), ConfigError, "--batch-size: found 0"),
        (("LABELS", "--range", "nan"), ConfigError, "--range: found nan"),
        (("LABELS",), DatasetError, "no input"),
        (("LABELS", "IMAGES"), DatasetError, "no calibration"),
        (("LABELS", "IMAGES", "--focal", "-1"), ConfigError, "--focal: found -1"),
        (("LABELS", "IMAGES", "--classes", "Car,Bus"), ConfigError, "'Bus'"),
        (("MODEL", "IMAGES", "--focal", "9", "--opts", "A.B", "1"), ConfigError, "A.B"),
        (("MODEL", "IMAGES", "--focal", "9", "--opts", "MODEL.NECK.UPSAMPLE", "learned"),
         CheckpointError, "missing weights"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_before_anything_is_written(
    data, weights, run, tmp_path, arguments, error, message
):
    known = {"LABELS": ("--labels", data / "label_2"), "IMAGES": (data / "image_2",)}
    known["MODEL"] = weights
    words = [word for argument in arguments for word in known.get(argument, (argument,))]
    with pytest.raises(error, match=message):
        run(*words)
    assert not files(tmp_path / "out")


def test_help_teaches(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("examples:", "--focal PIXELS", "detections.json"))


def test_errors_are_one_line_and_exit_with_2(tmp_path, monkeypatch, run_script):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "torn.mp4").write_bytes(b"\0" * 100)
    code, _, errors = run_script(demo.__file__, "--labels", ".", "--focal", 700, "torn.mp4")
    assert code == 2
    (line,) = [line for line in errors.splitlines() if "torn.mp4" in line]
    assert line.startswith("error: torn.mp4: found a file that does not open as a video")


@pytest.mark.parametrize("what", ["video", "image", "labels", "calibration"])
def test_inputs_are_never_written_over(data, run, tmp_path, what):
    out = tmp_path / "out"
    image = read_image(str(data / "image_2" / "000000.png"))
    arguments = ["--labels", data / "label_2", "--focal", 180, data / "image_2"]
    if what == "video":
        with video_writer(out / "drive.mp4", fps=5) as append:
            append(image)
        arguments[-1] = out / "drive.mp4"
    elif what == "image":
        (out / "pictures").mkdir(parents=True)
        cv2.imwrite(str(out / "pictures" / "000000.jpg"), image)
        arguments[-1] = out / "pictures"
    else:
        kind = {"labels": "label_2", "calibration": "calib"}[what]
        out.mkdir()
        (data / kind).rename(out / "kitti")
        option = {"labels": "--labels", "calibration": "--calib"}[what]
        arguments = [option, out / "kitti", *arguments[-1:]]
        arguments += ["--focal", 180] if what == "labels" else ["--labels", data / "label_2"]
    before = {path: (out / path).read_bytes() for path in files(out)}
    with pytest.raises(ConfigError, match="--output: found"):
        run(*arguments)
    assert {path: (out / path).read_bytes() for path in files(out)} == before
