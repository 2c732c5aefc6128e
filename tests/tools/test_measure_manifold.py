import json
import sys
from pathlib import Path

import cv2
import pytest
import torch

from qiml.config import load_config
from qiml.engine.trainer import Trainer
from tools import measure_manifold

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(str(TINY)))
    torch.save(model.for_inference().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the tool's own code in this process; what it printed."""

    def run(*words):
        words = ["measure_manifold.py", "--config-file", TINY, *words]
        monkeypatch.setattr(sys, "argv", [*map(str, words)])
        measure_manifold.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def fails(run, capsys):
    """Run it, see it exit with 2, and return the message, a single line."""

    def fails(*words):
        with pytest.raises(SystemExit) as caught:
            run(*words)
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return fails


@pytest.mark.parametrize("reference", [False, True])
def test_table_and_files(run, kitti_folder, weights, tmp_path, reference):
    name = f"kitti_format:{kitti_folder(frames=5)}:train"
    words = ["--weights", weights, "--dataset", name, "--limit", 4, "--output", tmp_path / "out"]
    words += ["--reference", name] if reference else []
    printed = run(*words, "MODEL.QUASI_ISOMETRIC.DEPTH_SPACE", "log")
    numbers = json.loads((tmp_path / "out" / "manifold.json").read_text())
    assert numbers["objects"] == 12
    assert numbers["local_pairs"] == 4 * 4 * 2  # 10 of 12 m and 7 of 10 m; not 7 of 12 m: log
    assert numbers.keys() == measure_manifold.MEANINGS.keys()
    assert all(f"{name} " in printed for name in numbers)
    assert cv2.imread(str(tmp_path / "out" / "manifold.png")) is not None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifold.json", "manifold.png"]


def test_wrong_input(fails, kitti_folder, weights, tmp_path):
    name = f"kitti_format:{kitti_folder()}:train"
    assert "--weights: found nothing" in fails("--dataset", name)
    assert "none.pth: found no such file" in fails("--weights", tmp_path / "none.pth")
    words = ["--weights", weights, "--dataset"]
    assert "--limit: found 0" in fails(*words, name, "--limit", 0)
    assert "found 'kitti_tran'" in fails(*words, "kitti_tran")
    test = f"kitti_format:{kitti_folder(split='test')}:test"
    assert "found 0 objects" in fails(*words, test)
    assert "--dataset: found nothing" in fails("--weights", weights, "DATASETS.TEST", "()")
    assert "'roi' with" in fails(*words, name, "MODEL.QUASI_ISOMETRIC.DESCRIPTOR", "roi")


def test_diverged_weights(fails, kitti_folder, weights):
    state = {
        k: v * float("nan") if v.is_floating_point() else v
        for k, v in torch.load(weights, weights_only=True).items()
    }
    torch.save(state, weights)
    name = f"kitti_format:{kitti_folder()}:train"
    assert "not finite" in fails("--weights", weights, "--dataset", name)
