"""Full disks, folders that may not be written to, and kills: what was there stays, and one line says why."""

import errno
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from qiml.data.depth_map import write_depth_map
from qiml.data.images import write_image
from qiml.data.kitti_format import KITTIObjects, write_objects
from qiml.data.sources import Frame, Images
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.errors import exit_on_error
from qiml.io import atomic_folder, atomic_write_text
from qiml.studies.records import append_record, read_records
from qiml.visualization import report
from qiml.visualization.results import ResultFolder
from qiml.visualization.video import video_writer

NOBODY, ROOM = 65534, 2000  # a user id; bytes that fit on the "full" disk
NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def checkpoint(folder: Path, text: str) -> None:
    model = nn.Linear(100, 50)
    nn.init.constant_(model.weight, len(text))
    DetectorCheckpointer(model, str(folder)).save("model_final", iteration=1)


def results(folder: Path, text: str) -> None:
    objects = KITTIObjects.from_columns(["Car"] * 99, bbox=np.full((99, 4), len(text)), score=0.5)
    write_objects(folder / "000000.txt", objects)


def result_folder(folder: Path, text: str) -> None:
    with atomic_folder(folder / "kitti_results") as temporary:
        for number in range(3):
            atomic_write_text(temporary / f"{number}.txt", text * 500)


def json_file(folder: Path, text: str) -> None:
    atomic_write_text(folder / "report.json", text * 500)


def report_page(folder: Path, text: str) -> None:
    with mock.patch.multiple(report, read_runs=mock.DEFAULT, render=lambda *_: text * 500):
        report.write_report([folder], folder / "report.html")


def picture(folder: Path, text: str) -> None:
    write_image(folder / "a.png", np.roll(NOISE, len(text)))


def depth_map(folder: Path, text: str) -> None:
    write_depth_map(folder / "depth.png", np.roll(NOISE, len(text))[..., 0] / 3.0)


def demo(folder: Path, text: str) -> None:
    image, objects = np.roll(NOISE, len(text)), KITTIObjects.empty()
    frame, written = Frame("a", "a.png", image), ResultFolder(folder)
    with written.pictures(Images([])) as write_picture:
        write_picture(frame, image)
    written.add(frame, np.eye(3, 4), objects)
    written.write_json()


def video(folder: Path, text: str) -> None:
    with video_writer(folder / "a.mp4", fps=5) as append:
        for shift in range(5):
            append(np.roll(NOISE, shift + len(text)))


def study_record(folder: Path, text: str) -> None:
    append_record(folder / "study.jsonl", {"identity": text, "seed": 1, "notes": "x" * ROOM})


WRITERS = (
    checkpoint, results, result_folder, json_file, report_page, picture, depth_map, demo, video,
    study_record,
)  # fmt: skip


def in_child(
    work: Callable[[], None], prepare: Callable[[], None], log: Path
) -> tuple[int, list[str]]:
    """Exit code (minus the signal's number) of a process that does `work`, and its lines on stderr."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            error = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(error, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            prepare()
            with exit_on_error():
                work()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), log.read_text().splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def no_room() -> None:
    """The system refuses larger files, in the middle of a write."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def no_room_at_the_end() -> None:
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.replace = os.rename = os.fsync = refuse


def no_right() -> None:
    if os.geteuid() == 0:
        os.setuid(NOBODY)


def kill(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_before_it_is_there() -> None:
    os.replace = os.rename = os.fsync = kill


@pytest.fixture
def folder(tmp_path):
    """What :func:`no_right` may read and not write to."""
    folder = tmp_path / "out"
    folder.mkdir(mode=0o755)
    return folder


@pytest.mark.parametrize("old", [True, False], ids=["over", "new"])
@pytest.mark.parametrize("prepare", [no_room, no_room_at_the_end, no_right])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_what_cannot_be_written_is_one_line_and_loses_nothing(
    folder, tmp_path, write, prepare, old
):
    if old:
        write(folder, "old")
    before = contents(folder)
    if prepare is no_right:
        folder.chmod(0o555)
    code, lines = in_child(lambda: write(folder, "newer"), prepare, tmp_path / "stderr")
    folder.chmod(0o755)
    assert code == 2, lines
    # Libraries in C may have said something before.
    (line,) = (line for line in lines if line.startswith("error: "))
    assert str(folder) in line and "To mend it: " in line and "Traceback" not in str(lines)
    after = contents(folder)
    if write is study_record and prepare is not no_right:
        # Lines are added in place: a torn one behind the others counts as none, and is written over.
        assert after["study.jsonl"].startswith(before.get("study.jsonl", b""))
        records = read_records(folder / "study.jsonl")
        assert [record["identity"] for record in records][: int(old)] == ["old"] * old
    else:
        assert after == before


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_kill_loses_nothing(folder, tmp_path, write):
    write(folder, "old")
    before = contents(folder)
    code, lines = in_child(
        lambda: write(folder, "new"), killed_before_it_is_there, tmp_path / "stderr"
    )
    assert code == -signal.SIGKILL, lines
    after = contents(folder)
    if write is study_record:
        assert after["study.jsonl"].startswith(before["study.jsonl"])
        assert read_records(folder / "study.jsonl")[0]["identity"] == "old"
    else:
        half_written = (".", "pictures/.")
        assert {n: d for n, d in after.items() if not n.startswith(half_written)} == before
    write(folder, "newer")  # what is left over is in nobody's way
    again = contents(folder)
    assert any(again[name] != before[name] for name in before)


def test_a_training_whose_disk_is_full_says_so_and_keeps_its_checkpoint(
    kitti_folder, tiny_config, tmp_path, monkeypatch
):
    from qiml.engine.trainer import Trainer

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    kitti_folder(root=tmp_path / "kitti")
    cfg = tiny_config("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "DATASETS.TEST", "()")

    def train(last: int) -> None:
        longer = cfg.clone()
        longer.SOLVER.MAX_ITER = last
        trainer = Trainer(longer)
        trainer.resume_or_load(resume=True)
        trainer.train()

    train(2)
    before = contents(tmp_path / "output")

    def no_room_for_checkpoints() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    code, lines = in_child(lambda: train(4), no_room_for_checkpoints, tmp_path / "stderr")
    assert code == 2 and not [line for line in lines if "Traceback" in line], lines
    assert lines[-1].startswith("error: ") and "model_0000002.pth" in lines[-1]
    after = contents(tmp_path / "output")
    checkpoints = [name for name in before if name.endswith(".pth") or name == "last_checkpoint"]
    assert checkpoints and all(after[name] == before[name] for name in checkpoints)
    torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
