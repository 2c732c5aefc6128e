import json
import multiprocessing

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from torch import nn

from qiml.engine.train_step import TrainStep
from qiml.engine.trainer import Trainer
from qiml.errors import DatasetError


class Killed(BaseException):
    """As when a run is killed: nothing catches it."""


@pytest.fixture
def make_trainer(kitti_folder, tiny_config, tmp_path):
    """A trainer on five frames, with every augmentation, that writes to a folder by name."""
    name = f"('kitti_format:{kitti_folder(frames=5)}:train',)"
    overrides = ["DATASETS.TRAIN", name, "DATASETS.TEST", "()"]
    overrides += ["INPUT.AUGMENTATION.PHOTOMETRIC", 0.5, "SOLVER.CHECKPOINT_PERIOD", 2]
    overrides += ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]

    def make(folder, *changes, seed=0):
        torch.manual_seed(seed)
        output = ("OUTPUT_DIR", tmp_path / folder)
        return Trainer(tiny_config(*overrides, *output, *changes))

    return make


def kill_at(trainer, iteration, monkeypatch):
    run_step = trainer._trainer.run_step

    def run_or_die():
        if trainer.iter == iteration:
            raise Killed
        run_step()

    monkeypatch.setattr(trainer._trainer, "run_step", run_or_die)
    with pytest.raises(Killed):
        trainer.train()


def test_resumed_run_equals_an_uninterrupted_one(
    make_trainer, monkeypatch, tmp_path, assert_same_checkpoint
):
    """Killed two iterations after a checkpoint; weights, optimiser and schedule bit for bit."""
    uninterrupted = make_trainer("whole", "SOLVER.MAX_ITER", 6)
    uninterrupted.train()

    kill_at(make_trainer("killed", "SOLVER.MAX_ITER", 6), 3, monkeypatch)
    assert (tmp_path / "killed" / "last_checkpoint").read_text() == "model_0000001.pth"
    # Another seed: whatever a resume does not restore would show.
    resumed = make_trainer("killed", "SOLVER.MAX_ITER", 6, seed=1)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()

    for name in ("model_0000003.pth", "model_0000005.pth", "model_final.pth"):
        saved = assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "killed" / name)
    assert any("/optimizer/state" in key and "exp_avg_sq" in key for key in saved)
    assert saved["/trainer/scheduler/last_epoch"] == 6


def test_training_moves_every_weight_and_logs_every_loss(make_trainer, tmp_path):
    trainer = make_trainer("run", "SOLVER.MAX_ITER", 3, "INPUT.AUGMENTATION.CROP", 0.0)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    logged = set().union(*lines)
    terms = {"heatmap", "offset_2d", "size_2d", "heading", "offset_3d", "depth", "size_3d"}
    terms |= {"object_depth", "metric"}
    assert logged >= {f"loss_{term}" for term in terms} | {"total_loss", "lr", "data_time"}


def test_a_finished_run_resumes_to_nothing(make_trainer, tmp_path):
    make_trainer("run", "SOLVER.MAX_ITER", 2).train()
    before = (tmp_path / "run/model_final.pth").read_bytes()
    again = make_trainer("run", "SOLVER.MAX_ITER", 2, seed=1)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    again.train()
    assert (tmp_path / "run/model_final.pth").read_bytes() == before


def test_killed_while_it_copied_its_last_checkpoint(make_trainer, tmp_path):
    make_trainer("run", "SOLVER.MAX_ITER", 2).train()
    before = (tmp_path / "run/model_final.pth").read_bytes()
    (tmp_path / "run/model_final.pth").rename(tmp_path / "run/.tmp-0-model_final.pth")
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    again = make_trainer("run", "SOLVER.MAX_ITER", 2, seed=1)
    again.resume_or_load(resume=True)
    again.train()
    assert (tmp_path / "run/model_final.pth").read_bytes() == before
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_pictures_of_predictions(make_trainer, tmp_path, assert_same_checkpoint):
    """Every VIS_PERIOD iterations and at the end, of the same frames; the training does not notice."""
    make_trainer("without", "SOLVER.MAX_ITER", 3).train()
    name = f"('kitti_format:{tmp_path}/kitti0:train',)"
    with_pictures = (
        "DATASETS.TEST",
        name,
        "VIS_PERIOD",
        2,
        "MODEL.BOX3D_HEAD.SCORE_THRESHOLD",
        0.0,
    )
    trainer = make_trainer("with", "SOLVER.MAX_ITER", 3, *with_pictures)
    shown = []
    trainer.build_writers = lambda: [Recorder(shown)]
    trainer.train()
    assert [step for _, _, step in shown] == [1] * 4 + [2] * 4
    names = [f"predictions/00000{i}" for i in (0, 1, 2, 4)]
    assert [name for name, _, _ in shown] == names * 2
    assert all(len(image) == 3 and image.dtype == np.uint8 for _, image, _ in shown)
    assert not np.array_equal(shown[0][1], shown[4][1])  # two steps later, other detections
    assert_same_checkpoint(tmp_path / "without/model_final.pth", tmp_path / "with/model_final.pth")


class Recorder(EventWriter):
    """Keeps the pictures that TensorBoard's writer would write."""

    def __init__(self, shown):
        self.shown = shown

    def write(self):
        storage = get_event_storage()
        self.shown += storage._vis_data
        storage.clear_images()


def test_resume_without_a_checkpoint_starts_at_the_beginning(make_trainer):
    trainer = make_trainer("new", "SOLVER.MAX_ITER", 2)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    trainer.train()


def test_weights_start_a_run_at_iteration_zero(make_trainer, tmp_path):
    make_trainer("first", "SOLVER.MAX_ITER", 2).train()
    weights = tmp_path / "first/model_final.pth"
    trainer = make_trainer("second", "MODEL.WEIGHTS", weights, seed=1)
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0
    saved = torch.load(weights, weights_only=True)["model"]
    assert all(torch.equal(v, saved[k]) for k, v in trainer.model.state_dict().items())


class Stub(nn.Module):
    """A model whose loss is its weight times the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return {"loss": self.weight * batch}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_before_the_weights_take_it_up(value):
    model = Stub()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), scale_gradients=False)
    step.start([2.0, value])
    with EventStorage():
        step.run_step()
        assert model.weight.item() == pytest.approx(0.8)
        with pytest.raises(FloatingPointError):
            step.run_step()
    assert model.weight.item() == pytest.approx(0.8)


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_clipped_after_unscaling(scaled):
    model = Stub()
    step = TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        scale_gradients=False,
        clip_gradients=lambda parameters: nn.utils.clip_grad_value_(parameters, 0.5),
    )
    if scaled:
        step.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step.start([2.0, 0.25])
    with EventStorage():
        step.run_step()
        assert model.weight.item() == pytest.approx(1 - 0.1 * 0.5)
        step.run_step()
    assert model.weight.item() == pytest.approx(0.95 - 0.1 * 0.25)


def test_a_run_without_scaled_gradients_goes_on_with_them():
    """From a CPU, where float16 is float32, to a GPU."""
    model = nn.Linear(1, 1)
    steps = [
        TrainStep(model, torch.optim.Adam(model.parameters()), scale_gradients=False) for _ in "ab"
    ]
    steps[1].scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    steps[1].load_state_dict(steps[0].state_dict())
    assert steps[1].scaler.get_scale() == 8.0


def test_the_average_of_the_weights_is_evaluated(make_trainer, monkeypatch, tmp_path):
    evaluated = []
    monkeypatch.setattr(Trainer, "test", staticmethod(lambda cfg, model: evaluated.append(model)))
    trainer = make_trainer("run", "MODEL_EMA.ENABLED", True, "SOLVER.MAX_ITER", 3)
    trainer.train()
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    weights = evaluated[-1].state_dict()
    average = saved["trainer"]["hooks"]["WeightAverage"]
    assert all(torch.equal(value, weights[name]) for name, value in average.items())
    assert any((value != saved["model"][name]).any() for name, value in weights.items())


def test_an_error_ends_the_loaders_processes(make_trainer, tmp_path):
    """Else they keep the program from ending for half a minute: the traceback holds what reads from them."""
    trainer = make_trainer("run", "DATALOADER.NUM_WORKERS", 1)
    with open(tmp_path / "kitti0/training/image_2/000001.png", "rb+") as file:
        file.truncate(2000)
    before = multiprocessing.active_children()
    with pytest.raises(DatasetError, match="does not decode"):
        trainer.train()
    assert multiprocessing.active_children() == before
