"""The doctor on prepared Waymo data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qiml.data.waymo import frame_dict
from qiml.data.waymo_format import VERSION, WaymoCamera, WaymoFrame, WaymoObject
from qiml.doctor.checks import check_labels
from qiml.doctor.images import check_duplicates, check_images
from qiml.doctor.problems import ERROR, WARNING
from qiml.doctor.report import summarise
from qiml.doctor.splits import check_splits
from qiml.doctor.survey import survey
from qiml.errors import ConfigError
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera
from tests.data.waymo_scenes import INTRINSIC, SIZE, extrinsic, jpeg

CAMERA = WaymoCamera(*SIZE, tuple(INTRINSIC), tuple(extrinsic("FRONT")))
BOXES = ((20.0, 1.5, 1.0, 4.5, 2.0, 1.6, 0.3), (25.0, -2.0, 1.0, 4.5, 2.0, 1.6, -0.4))


def fitting(root: Path, number: int) -> WaymoFrame:
    """A frame of two vehicles whose projected labels fit, with its image."""
    image = f"images/{number}.jpg"
    (root / "train/images").mkdir(parents=True, exist_ok=True)
    (root / "train" / image).write_bytes(jpeg(number))
    objects = tuple(
        WaymoObject(f"o{i}", 1, box, points=99, boxes2d={"FRONT": (0.0, 0.0, 1.0, 1.0)})
        for i, box in enumerate(BOXES)
    )
    frame = WaymoFrame("segment", number, {"FRONT": CAMERA}, {"FRONT": image}, objects)
    item = frame_dict(root, frame, "FRONT", True)
    boxes = Boxes3D(torch.tensor([a["box3d"] for a in item["annotations"]], dtype=torch.float64))
    camera = Camera(torch.tensor(item["camera"], dtype=torch.float64))
    projected = boxes.project(camera, (SIZE[1], SIZE[0])).tolist()
    labelled = zip(objects, projected, strict=True)
    return replace(
        frame, objects=tuple(replace(o, boxes2d={"FRONT": tuple(box)}) for o, box in labelled)
    )


def write_index(
    root: Path, frames: list[WaymoFrame], name: str = "segment", split: str = "train"
) -> Path:
    lines = [json.dumps({"version": VERSION}), *(frame.to_json() for frame in frames)]
    path = root / split / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, json.dumps({"counts": {"frames": len(frames)}})]) + "\n")
    return path


@pytest.fixture
def root(tmp_path):
    write_index(tmp_path, [fitting(tmp_path, number) for number in range(4)])
    return tmp_path


def examine(root: Path):
    own = survey(f"waymo_format:{root}:train:FRONT")
    problems = [*own.problems, *check_labels(own), *check_images(own, 1)]
    return own, problems + check_duplicates([own]) + check_splits([own])


def test_good_data(root):
    own, problems = examine(root)
    assert problems == []
    summary = summarise(own)
    assert summary["frames"] == 4 and summary["classes"]["FRONT Vehicle"]["objects"] == 8
    assert summary["classes"]["FRONT Vehicle"]["projection"]["least"] > 0.99


def test_a_camera_that_is_elsewhere_is_an_error(root):
    extrinsic = (*CAMERA.extrinsic[:7], CAMERA.extrinsic[7] + 2, *CAMERA.extrinsic[8:])
    moved = {"FRONT": CAMERA._replace(extrinsic=extrinsic)}
    write_index(root, [replace(fitting(root, number), cameras=moved) for number in range(4)])
    _, problems = examine(root)
    (error,) = (problem for problem in problems if problem.severity == ERROR)
    assert error.check == "projection" and "of 8 objects wrong" in error.message


def test_an_index_that_is_cut_and_a_line_that_is_damaged(root):
    path = write_index(root, [fitting(root, 1)], "cut")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    path = write_index(root, [fitting(root, 2)], "damaged")
    path.write_text(path.read_text().replace('"points":99', '"points":"many"', 1))
    own, _ = examine(root)
    first, second = own.problems
    assert "cut.jsonl: found" in first.message and "damaged.jsonl:2: found" in second.message
    assert len(own.frames) == 4  # the good segment's


def test_images_that_are_missing_or_of_another_size(root):
    (root / "train/images/0.jpg").unlink()
    large = replace(fitting(root, 1), cameras={"FRONT": CAMERA._replace(width=192)})
    write_index(root, [fitting(root, 2), large], "another")
    (root / "train/images/0.jpg").unlink(missing_ok=True)
    _, problems = examine(root)
    found = {(problem.check, problem.severity) for problem in problems}
    assert ("files", ERROR) in found and ("images", ERROR) in found
    (size,) = (problem for problem in problems if problem.check == "images")
    assert "found 96×64 pixels; expected 192×64" in size.message


def test_a_segment_prepared_twice_and_one_in_both_splits(root):
    write_index(root, [fitting(root, 0)], "again")
    write_index(root, [fitting(root, 9)], "segment", split="val")
    _, problems = examine(root)
    assert [(p.check, p.severity) for p in problems] == [
        ("duplicates", WARNING),
        ("splits", WARNING),
    ]
    assert "frame segment_0_FRONT again" in problems[0].message


def test_nothing_there(tmp_path):
    own, _ = examine(tmp_path)
    assert own.problems[0].severity == ERROR and "prepare_waymo" in own.problems[0].message
    with pytest.raises(ConfigError, match="no such folder"):
        survey(f"waymo_format:{tmp_path}/none:train:FRONT")
