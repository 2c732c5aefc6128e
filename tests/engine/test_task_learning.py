import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qiml.engine.task_learning import TaskLearning, task_weights
from qiml.engine.train_step import TrainStep
from qiml.engine.trainer import Trainer
from qiml.errors import ConfigError

GRAPH = {"box": (), "size": ("box",), "depth": ("box", "size")}
LOSSES = st.floats(-100, 100, width=32)


def falling(epochs, *rates):
    """Losses that fall exponentially, one column for each rate."""
    return torch.exp(-torch.arange(epochs)[:, None] * torch.tensor(rates))


def test_losses_without_prerequisites_count_from_the_start():
    for epoch in range(5):
        weights = task_weights(GRAPH, falling(epoch, 0.1, 0.1, 0.1), num_epochs=20)
        assert weights.tolist() == [1, 0, 0]


def test_a_loss_waits_for_what_it_builds_on():
    """Nothing has settled: its weight is the share of the run that is over; all has settled: 1."""
    steady = torch.arange(10.0, 0, -1)[:, None].expand(10, 3)
    assert task_weights(GRAPH, steady, num_epochs=20).tolist() == pytest.approx([1, 5 / 15, 5 / 15])
    settled = torch.cat([steady[:5], steady[5:6].expand(5, 3)])
    assert task_weights(GRAPH, settled, num_epochs=20).tolist() == [1, 1, 1]
    # Only the box has: the size counts, the depth goes on waiting for the size.
    mixed = torch.stack([settled[:, 0], steady[:, 0], steady[:, 0]], dim=1)
    assert task_weights(GRAPH, mixed, num_epochs=20).tolist() == pytest.approx([1, 1, 5 / 15])


def test_the_window_is_an_argument():
    history = falling(8, 0.3, 0.2, 0.1)
    assert task_weights(GRAPH, history[:7], num_epochs=30, window=8).tolist() == [1, 0, 0]
    fall = history[:-2] - history[2:]
    settled = 1 - fall[-1] / fall[0]  # a window of 3 has one difference
    expected = [1, (5 / 27) ** (1 - settled[0]), (5 / 27) ** (1 - settled[0] * settled[1])]
    weights = task_weights(GRAPH, history, num_epochs=30, window=3)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@given(history=arrays(np.float32, st.tuples(st.integers(0, 9), st.just(3)), elements=LOSSES))
@settings(deadline=None, max_examples=200)
def test_weights_are_between_0_and_1_whatever_the_losses_do(history):
    """Also where losses rise, stand still from the start, or fall ever faster."""
    weights = task_weights(GRAPH, torch.from_numpy(history), num_epochs=8)
    assert weights[0] == 1 and (weights >= 0).all() and (weights <= 1).all()


# --- In the trainer


@pytest.fixture
def make_trainer(kitti_folder, tiny_config, tmp_path):
    """GUPNet's head on five frames in batches of two, weighed anew every three iterations."""
    name = f"('kitti_format:{kitti_folder(frames=5)}:train',)"
    overrides = ["DATASETS.TRAIN", name, "DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", 4]
    overrides += ["MODEL.BOX3D_HEAD.NAME", "GUPNetHead", "SOLVER.TASK_LEARNING.ENABLED", True]
    overrides += ["SOLVER.TASK_LEARNING.WINDOW", 3, "SOLVER.TASK_LEARNING.PERIOD", 3]
    overrides += ["INPUT.AUGMENTATION.CROP_DEPTH", "metric", "SOLVER.MAX_ITER", 17]

    def make(folder, *changes, seed=0):
        torch.manual_seed(seed)
        return Trainer(tiny_config(*overrides, "OUTPUT_DIR", tmp_path / folder, *changes))

    return make


def hook_of(trainer):
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, TaskLearning)]
    return hook


def test_resumed_run_equals_an_uninterrupted_one(make_trainer, tmp_path):
    """From the middle of a period, with weights that have begun to move."""
    whole = make_trainer("run")
    whole.train()
    hook = hook_of(whole)
    assert len(hook.history) == 5 and hook.count == 2
    assert 0 < hook.step.loss_weights["loss_depth"] < 1 == hook.step.loss_weights["loss_heatmap"]

    (tmp_path / "run" / "last_checkpoint").write_text("model_0000011.pth")
    resumed = make_trainer("run", seed=1)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 12
    resumed.train()
    for a, b in [(whole.model, resumed.model), (hook, hook_of(resumed))]:
        theirs = b.state_dict()
        for name, value in a.state_dict().items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[name])), name


def test_losses_that_weigh_nothing_leave_their_branches_alone(make_trainer):
    alone = ("SOLVER.WEIGHT_DECAY", 0.0, "MODEL.QUASI_ISOMETRIC.ENABLED", False)
    trainer = make_trainer("run", "SOLVER.MAX_ITER", 4, *alone)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    second_stage = ("depth", "offset_3d", "size_3d", "heading")
    for name, parameter in trainer.model.named_parameters():
        waits = name.startswith(tuple(f"box3d_head.{task}." for task in second_stage))
        assert torch.equal(parameter, before[name]) == waits, name
    assert hook_of(trainer).step.losses["loss_depth"] != 0  # noted without its weight


def test_history_is_the_mean_of_each_period(make_trainer, monkeypatch):
    seen = []
    run_step = TrainStep.run_step

    def run_and_note(step):
        run_step(step)
        seen.append(torch.stack([step.losses[name] for name in hook_of(trainer).graph]))

    monkeypatch.setattr(TrainStep, "run_step", run_and_note)
    trainer = make_trainer("run", "SOLVER.MAX_ITER", 7)
    trainer.train()
    expected = torch.stack(seen[:6]).view(2, 3, -1).mean(dim=1)
    torch.testing.assert_close(hook_of(trainer).history, expected)


def test_an_epoch_is_the_default_period_and_short_runs_are_told(make_trainer, caplog):
    trainer = make_trainer("run", "SOLVER.TASK_LEARNING.PERIOD", 0, "SOLVER.MAX_ITER", 5)
    with caplog.at_level("WARNING", logger="qiml.engine.task_learning"):
        trainer.train()
    assert hook_of(trainer).period == 2  # five frames in batches of two
    (message,) = [r.getMessage() for r in caplog.records if r.name.endswith("task_learning")]
    assert "2.5 periods of 2 iterations" in message and "SOLVER.TASK_LEARNING.PERIOD" in message


def test_a_finished_run_resumes_to_nothing(make_trainer):
    changes = ("SOLVER.MAX_ITER", 2, "SOLVER.TASK_LEARNING.PERIOD", 0)
    make_trainer("run", *changes).train()
    again = make_trainer("run", *changes)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    again.train()


def test_a_head_without_a_graph(make_trainer):
    with pytest.raises(ConfigError, match=r"^SOLVER\.TASK_LEARNING\.ENABLED: .*MonoDLEHead"):
        make_trainer("run", "MODEL.BOX3D_HEAD.NAME", "MonoDLEHead")


# --- Several workers


class Step:
    """What the hook reads and writes."""

    loss_weights = None
    losses = None


class Run:
    """What the hook knows of the trainer."""

    start_iter, max_iter = 0, 30

    class storage:
        @staticmethod
        def put_scalar(*_args, **_kwargs):
            pass


def run_hook(losses, length=0):
    """History and weights after steps with these losses (steps, tasks)."""
    hook = TaskLearning(Step(), GRAPH, batch_size=1, period=2, window=3, length=length)
    hook.trainer = Run()
    for iteration, values in enumerate(losses):
        hook.trainer.iter = iteration
        hook.before_step()
        hook.step.losses = dict(zip(GRAPH, values, strict=True))
        hook.after_step()
    return hook.history, hook.step.loss_weights


def test_length_can_be_another_than_the_runs():
    losses = worker_losses(0)
    history, weights = run_hook(losses, length=7)
    _, of_the_run = run_hook(losses)
    for num_epochs, found in ((7, weights), (Run.max_iter / 2, of_the_run)):
        expected = task_weights(GRAPH, history, num_epochs, window=3).tolist()
        assert list(found.values()) == expected
    assert weights != of_the_run


def worker_losses(rank):
    generator = torch.Generator().manual_seed(rank)
    return torch.rand(14, 3, generator=generator) + falling(14, 0.2, 0.1, 0.05) * 9


def _worker(rank):
    history, weights = run_hook(worker_losses(rank))
    return history.numpy(), weights


def test_all_workers_weigh_alike(spawn_workers):
    """By the mean of their losses."""
    results = spawn_workers(_worker, 2)
    (history, weights), (other_history, other_weights) = results
    assert np.array_equal(history, other_history) and weights == other_weights
    expected, expected_weights = run_hook((worker_losses(0) + worker_losses(1)) / 2)
    np.testing.assert_allclose(history, expected, rtol=1e-6)
    assert 0 < weights["depth"] < 1
    assert weights == pytest.approx(expected_weights, rel=1e-5)
