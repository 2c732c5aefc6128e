"""What cluster/train.py refuses before any worker starts."""

import importlib.util
import sys
from pathlib import Path

import pytest

from qiml.errors import exit_on_error

ROOT = Path(__file__).parents[2]


@pytest.fixture
def refuses(monkeypatch, capsys, tmp_path):
    """Function that runs cluster/train.py in this process, sees it exit with 2, and returns its message."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    spec = importlib.util.spec_from_file_location("cluster_train", ROOT / "cluster" / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*arguments, storage=tmp_path / "storage"):
        options = ["--config-file", ROOT / "tests/tiny.yaml", "--cpu", "--storage-path", storage]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, (*options, *arguments))])
        with pytest.raises(SystemExit) as caught, exit_on_error():
            script.main()
        assert caught.value.code == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert "; expected " in line and "To mend it: " in line
        return line.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SOLVER.MAX_ITR", 3), "did you mean SOLVER.MAX_ITER?"),
        (("DATASETS.TRAIN", "('kiti_train',)"), "did you mean 'kitti_train'?"),
        (("--num-workers", 3), "SOLVER.IMS_PER_BATCH: found 2 with 3 workers"),
        (("--num-workers", "2:3"), "SOLVER.IMS_PER_BATCH: found 2 with up to 3 workers"),
        (("--num-workers", "two"), "--num-workers: found 'two'"),
        (("--num-workers", "3:2"), "--num-workers: found '3:2'"),
        (("--num-workers", "1:2:3"), "--num-workers: found '1:2:3'"),
        (("--num-workers", 0), "--num-workers: found '0'"),
        (("SOLVER.REFERENCE_WORLD_SIZE", 4), "SOLVER.REFERENCE_WORLD_SIZE: found 4"),
        (
            ("--num-workers", "1:2", "SOLVER.REFERENCE_WORLD_SIZE", 2),
            "SOLVER.REFERENCE_WORLD_SIZE: found 2",
        ),
        (("--name", "a/b"), "--name: found 'a/b'"),
    ],
)
def test_wrong_value(refuses, tmp_path, arguments, message):
    assert message in refuses(*arguments)
    assert not list(tmp_path.rglob("config.yaml"))


def test_storage_that_cannot_be_written_to(refuses):
    assert refuses(storage="/proc/nothing").startswith("--storage-path: found /proc/nothing")


def test_cluster_that_does_not_answer(refuses, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # the port of "discard": nobody listens
    message = refuses()
    assert message.startswith("RAY_ADDRESS: found 127.0.0.1:9, where no Ray cluster answers")


def test_name_of_a_run_with_another_config(refuses, tiny_config, tmp_path):
    run = tmp_path / "storage" / "mine"
    run.mkdir(parents=True)
    earlier = tiny_config("SOLVER.BASE_LR", 0.5, "DATALOADER.NUM_WORKERS", 7).dump()
    (run / "config.yaml").write_text(earlier)
    message = refuses("--name", "mine")
    assert message.startswith("--name mine: found a run with another config there: 1 keys differ")
    assert "SOLVER.BASE_LR, 0.5 then and 0.00125 now" in message
    assert (run / "config.yaml").read_text() == earlier
