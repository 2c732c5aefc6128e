"""Checkpoints: damaged files, and whole ones that hold something else."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.ema import load_average
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.mutations import damaged_bytes, damaged_document
from tools.convert_checkpoint import read_weights

VALUES = (
    None, 0, -1, 1.5, float("nan"), "", "a", [], {}, [1], {"a": 1}, {1: 2}, torch.zeros(2, 3), torch.zeros(0),
    torch.tensor(1), torch.zeros(3, dtype=torch.int64), {"a": torch.zeros(2)},
)  # fmt: skip


class Net(nn.Module):
    """Small, with an optimiser that has a state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.optimizer = torch.optim.Adam(self.parameters())
        self.layer(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()


def content() -> dict:
    net = Net()
    average = {"WeightAverage": net.state_dict()}
    state = {"iteration": 3, "optimizer": net.optimizer.state_dict(), "hooks": average}
    return {"model": net.state_dict(), "trainer": state, "iteration": 3}


class Trainer:
    """As the engine's, but for the training."""

    def __init__(self, net: Net):
        self.net = net

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        self.iter = state["iteration"] + 1
        self.net.optimizer.load_state_dict(state["optimizer"])


def serialised(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


WHOLE = serialised(content())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def load(path: Path) -> bool:
    net = Net()
    extra = DetectorCheckpointer(net, str(path.parent), trainer=Trainer(net)).load(str(path))
    assert torch.isfinite(net.layer.weight).all() or "model" not in extra
    return True


@fuzz(150, data=damaged_bytes(WHOLE))
def test_damaged_files(folder, data):
    path = folder / "a.pth"
    path.write_bytes(data)
    before = torch.save  # so that nothing of the module is patched by a pickled name
    attempt("checkpoint files", lambda: load(path), path)
    attempt("official checkpoints", lambda: read_weights(path), path)
    assert torch.save is before


@fuzz(150, document=damaged_document(content(), VALUES))
def test_other_content(folder, document):
    path = folder / "b.pth"
    torch.save(document, path)
    attempt("checkpoint content", lambda: load(path), path)
    attempt("official checkpoints", lambda: read_weights(path), path)


@fuzz(80, document=damaged_document(content(), VALUES))
def test_averaged_weights(document):
    extra = document if isinstance(document, dict) else {}
    attempt("averaged weights", lambda: load_average(Net(), extra) or True, "averaged weights")


@fuzz(80, changes=st.data(), number=st.integers(0, 2))
def test_resuming(folder, changes, number):
    """From the newest intact checkpoint, whatever of the rest is damaged."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    names = ("last_checkpoint", "model_0000009.pth", "model_0000019.pth")
    for name in names[1:]:
        (run / name).write_bytes(WHOLE)
    (run / names[0]).write_text(names[2])
    path = run / names[number]
    path.write_bytes(changes.draw(damaged_bytes(path.read_bytes())))
    net = Net()
    trainer = Trainer(net)
    checkpointer = DetectorCheckpointer(net, str(run), trainer=trainer)
    attempt("resuming", lambda: checkpointer.resume_or_load("", resume=True) or True, run)
    assert trainer.iter == 4
