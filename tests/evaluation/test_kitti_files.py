"""Evaluating folders: the command line, its outputs, and input that is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qiml.data.kitti_folder import read_image_ids
from qiml.data.kitti_format import KITTIObjects, write_objects
from qiml.errors import DatasetError
from qiml.evaluation.kitti import evaluate_files, main
from tests.evaluation.test_kitti import road

LABEL = "Car 0 0 0.1 0 50 200 150 1.5 1.6 4 0 1.7 20 0.3"


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Labels of four frames and results that find every object."""
    labels, results = tmp_path / "label_2", tmp_path / "results"
    for number, score in enumerate((0.9, 0.8, 0.7, 0.6)):
        name = f"{number:06d}.txt"
        objects = [road("Car", "Pedestrian"), road("Car", "Pedestrian", scores=score)]
        for folder, content in zip((labels, results / "data"), objects, strict=True):
            write_objects(folder / name, content if number else KITTIObjects.empty())
    return labels, results


def run(*arguments: str | Path) -> None:
    main([str(argument) for argument in arguments])


def test_command_line_prints_tables_and_writes_json(folders, tmp_path, capsys):
    output = tmp_path / "new" / "out.json"
    run(*folders, "--json", output)
    printed = capsys.readouterr().out
    assert "4 frames" in printed and "strict overlaps" in printed and "relaxed overlaps" in printed
    content = json.loads(output.read_text())
    assert content["order"] == ["easy", "moderate", "hard"]
    for key in ("results", "relaxed_results"):
        assert list(content[key]) == ["Car", "Pedestrian"]
        assert list(content[key]["Car"]) == ["AP11", "AP40"]
        assert list(content[key]["Car"]["AP40"]) == ["2d", "aos", "bev", "3d"]
    assert len(content["curves"]["precision"]["strict"]["Car"]["3d"]["easy"]) == 41
    assert content["results_by_range"]["order"] == ["0-20 m", "20-40 m", "40+ m"]
    assert content["depth_errors"]["Car"]["20-40 m"]["matched"] == 3
    assert content["depth_errors"]["Car"]["0-20 m"]["mean"] is None


def test_options(folders, tmp_path, capsys):
    ids = tmp_path / "val.txt"
    ids.write_text("000000\n000002\n\n000001\n000003")
    picture = tmp_path / "curves.png"
    run(*folders, "--ids", ids, "--classes", "Car", "--plot", picture, "--breakdown")
    printed = capsys.readouterr().out
    assert "true depth" in printed and "Pedestrian" not in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_results_may_lie_in_the_folder_itself(folders):
    labels, results = folders
    nested = evaluate_files(labels, results).evaluation.results()
    assert evaluate_files(labels, results / "data").evaluation.results() == nested


def test_runs_as_a_module_and_exits_2_without_traceback(folders, tmp_path):
    command = [sys.executable, "-m", "qiml.evaluation.kitti", str(folders[0]), str(tmp_path / "no")]
    package = Path(__file__).resolve().parents[2] / "projects" / "QIML"
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(package)}, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_classes_are_pointed_out(folders, capsys):
    labels, results = folders
    (results / "data" / "000001.txt").write_text(f"Cra {LABEL[4:]} 0.5\n")
    run(labels, results)
    assert "cra (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LABEL, r"000001.txt:3: found 15 columns; expected 16 \(a score in the last\)"),
        (LABEL[:20], "000001.txt:3: found 7 columns"),
        (f"{LABEL} 0.5 1", "000001.txt:3: found 17 columns"),
        (f"{LABEL} nan", "000001.txt:3: found 'nan' as score"),
        (f"{LABEL} high", "000001.txt:3: found 'high' as score"),
        (f"{LABEL} 0.5".replace("1.7", "inf"), "000001.txt:3: found 'inf' as y"),
        (f"{LABEL} 0.5".replace("200", "nan"), "000001.txt:3: found 'nan' as x2"),
    ],
)
def test_malformed_results(folders, line, message):
    labels, results = folders
    (results / "data" / "000001.txt").write_text(f"{LABEL} 0.5\n\n{line}\n{LABEL} 0.5\n")
    with pytest.raises(DatasetError, match=message):
        evaluate_files(labels, results)


def test_malformed_labels(folders):
    (folders[0] / "000002.txt").write_text(f"{LABEL} 0.5\n")
    with pytest.raises(DatasetError, match=r"000002.txt:1: found 16 columns; expected 15"):
        evaluate_files(*folders)
    (folders[0] / "000002.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"000002.txt"):
        evaluate_files(*folders)


def test_missing_results_are_named_and_may_be_allowed(folders):
    labels, results = folders
    (results / "data" / "000002.txt").unlink()
    with pytest.raises(
        DatasetError, match=r"1 frame without result file: 000002;.*--allow-missing"
    ):
        evaluate_files(labels, results)
    (results / "data" / "000003.txt").write_text("")
    allowed = evaluate_files(labels, results, allow_missing=True)
    (results / "data" / "000002.txt").write_text("")
    written = evaluate_files(labels, results)
    assert allowed.to_dict() == written.to_dict()
    assert allowed.evaluation.frames == 4


def test_ids_that_do_not_fit(folders, tmp_path):
    with pytest.raises(DatasetError, match="1 frame without label file: 000009"):
        evaluate_files(*folders, ids=["000001", "000009"])
    with pytest.raises(DatasetError, match=r"3 frames with results that are not.*: 000000, 000002"):
        evaluate_files(*folders, ids=["000001"])
    ids = tmp_path / "ids.txt"
    for text, message in (
        ("1\n2\n1\n", "ids.txt:3: found frame 1 again"),
        ("1\n../2\n", "ids.txt:2: found '../2'"),
        ("\n\n", "no frames"),
    ):
        ids.write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_image_ids(ids)


def test_folders_that_do_not_fit(folders, tmp_path):
    labels, results = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    for pair in ((labels, empty), (empty, results)):
        with pytest.raises(DatasetError, match=r"no .txt files"):
            evaluate_files(*pair)
    (results / "data" / "1.txt").write_text("")
    with pytest.raises(DatasetError, match=r"000001.txt and 1.txt, two files of one frame"):
        evaluate_files(labels, results)


def test_plot_needs_a_known_extension(folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(*folders, "--plot", tmp_path / "curves.xyz")
    assert exit_.value.code == 2
    assert "extension '.xyz'" in capsys.readouterr().err


def test_case_line_endings_and_blank_lines_do_not_matter(folders):
    labels, results = folders
    plain = evaluate_files(labels, results).to_dict()
    for path in [*labels.glob("*.txt"), *(results / "data").glob("*.txt")]:
        path.write_text("\r\n" + path.read_text().replace("Car", "cAR").replace("\n", "\r\n\r\n"))
    assert evaluate_files(labels, results).to_dict() == plain
    assert np.max(plain["results"]["Car"]["AP40"]["3d"]) > 0
