"""Labels, results, calibration and lists of frames."""

import itertools
import math
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st

from qiml.data.kitti import load_kitti_format
from qiml.data.kitti_folder import read_image_ids
from qiml.data.kitti_format import read_calibration, read_objects
from qiml.data.label_folder import LabelFolder
from qiml.evaluation.kitti import evaluate_files
from qiml.evaluation.kitti_table import read_table
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.mutations import damaged_bytes, damaged_text

LABELS = """\
Car 0.00 1 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57
Pedestrian 0.30 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01
DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10
"""
RESULTS = "".join(f"{line} 0.{9 - i}\n" for i, line in enumerate(LABELS.splitlines()))
CALIBRATION = (
    "P0: 7e2 0 6e2 0 0 7e2 1e2 0 0 0 1 0\nP2: 7.2e2 0 609.5 44.8 0 721 172.8 0.2 0 0 1 0.003\n"
)
LIST = "000000\n000001\n000002\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kitti") / "000007.txt"


def lines_of(data: bytes) -> list[str]:
    """Of a text that decodes: what is not blank."""
    text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    return [line for line in text.split("\n") if line.strip()]


def check_objects(target: str, file: Path, data: bytes, scored: bool) -> None:
    file.write_bytes(data)
    objects = attempt(target, lambda: read_objects(file, scored), file)
    table = attempt(f"{target}, table", lambda: read_table([file], scored), file)
    if objects is not None:
        # No line is left out, and the fast reader reads the same.
        assert len(objects) == len(lines_of(data))
        assert np.isfinite(objects.values[:, : 15 if scored else 14]).all()
        np.testing.assert_array_equal(table.objects.values, objects.values)


@fuzz(250, data=damaged_text(LABELS))
def test_labels(file, data):
    check_objects("labels", file, data, scored=False)


@fuzz(200, data=damaged_text(RESULTS))
def test_results(file, data):
    check_objects("results", file, data, scored=True)


@fuzz(60, data=damaged_text(RESULTS))
def test_labels_of_the_demo(file, data):
    file.write_bytes(data)
    attempt("demo labels", lambda: LabelFolder(file.parent)(file.stem), file)


@fuzz(200, data=damaged_text(CALIBRATION))
def test_calibration(file, data):
    file.write_bytes(data)
    projection = attempt("calibration", lambda: read_calibration(file), file)
    if projection is not None:
        assert projection.shape == (3, 4) and np.isfinite(projection).all()
        assert projection[0, 0] > 0 and projection[2, :3].tolist() == [0, 0, 1]


@fuzz(200, data=damaged_text(LIST))
def test_lists_of_frames(file, data):
    file.write_bytes(data)
    ids = attempt("ImageSets", lambda: read_image_ids(file), file)
    if ids is not None:
        assert ids == [line.strip() for line in lines_of(data)]


@fuzz(
    40,
    data=damaged_text(RESULTS),
    extra=st.sampled_from((None, "000009.txt", "0.txt", ".tmp-0-0.txt")),
)
def test_evaluation(tmp_path_factory, data, extra):
    folder = tmp_path_factory.mktemp("evaluation")
    for name in ("labels", "results"):
        (folder / name).mkdir()
    (folder / "labels" / "000000.txt").write_text(LABELS)
    (folder / "results" / "000000.txt").write_bytes(data)
    if extra:
        (folder / "results" / extra).write_text("")

    def evaluate() -> dict:
        return evaluate_files(folder / "labels", folder / "results", classes=["Car"]).to_dict()

    report = attempt("evaluation", evaluate, folder)
    if report is not None:
        assert report["frames"] == 1 and _all_finite(report["results"])
    shutil.rmtree(folder)


def _all_finite(node: object) -> bool:
    if isinstance(node, dict | list):
        return all(map(_all_finite, node.values() if isinstance(node, dict) else node))
    return not isinstance(node, float) or math.isfinite(node)


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A folder of two frames, and what its files hold."""
    root = tmp_path_factory.mktemp("folder")
    training, lists = root / "training", root / "ImageSets"
    for folder in (training / "image_2", training / "label_2", training / "calib", lists):
        folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8)
    for name in ("000000", "000001"):
        cv2.imwrite(str(training / "image_2" / f"{name}.png"), noise)
        (training / "label_2" / f"{name}.txt").write_text(LABELS)
        (training / "calib" / f"{name}.txt").write_text(CALIBRATION)
    (lists / "train.txt").write_text("000000\n000001\n")
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return root, {str(path.relative_to(root)): path.read_bytes() for path in files}


@fuzz(120, number=st.integers(0, 6), changes=st.data())
def test_folders(whole_folder, number, changes):
    root, contents = whole_folder
    name, content = sorted(contents.items())[number]
    way = changes.draw(st.sampled_from(("bytes", "text", "missing", "folder", "nowhere")))
    is_text = way == "text" and name.endswith(".txt")
    damaged = damaged_text(content.decode()) if is_text else damaged_bytes(content)
    data = changes.draw(damaged)
    path = root / name
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "nowhere":
        os.symlink(root / "nowhere", path)
    elif way != "missing":
        path.write_bytes(data)
    try:
        frames = attempt("folders", lambda: load_kitti_format(root, "train"), root)
        if frames is not None:
            assert [f["image_id"] for f in frames] == read_image_ids(root / "ImageSets/train.txt")
            boxes = [a["box3d"] for frame in frames for a in frame["annotations"]]
            assert all(map(math.isfinite, itertools.chain.from_iterable(boxes)))
    finally:
        path.rmdir() if way == "folder" else path.unlink(missing_ok=True)
        path.write_bytes(content)
