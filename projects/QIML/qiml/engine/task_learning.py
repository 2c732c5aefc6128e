"""Hierarchical task learning: losses wait for those they build on.

Source: Lu et al., Geometry Uncertainty Projection Network (GUPNet, ICCV 2021), Sec. 3.4; official code
`lib/losses/loss_function.py::Hierarchical_Task_Learning`.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from torch import Tensor

from qiml.losses.reduction import world_size

logger = logging.getLogger(__name__)


def task_weights(
    graph: Mapping[str, Sequence[str]], history: Tensor, num_epochs: float, window: int = 5
) -> Tensor:
    """Weight of each loss in the epoch after those of `history`.

    A loss without prerequisites weighs 1. Another weighs `t^(1 − Π αⱼ)` over its prerequisites j, where t
    rises from 0 after the first `window` epochs to 1 at `num_epochs`, and αⱼ tells how far j has settled:
    `αⱼ = 1 − relu(mⱼ / mⱼ⁰)`, m the mean of L(e − 2) − L(e) over the last `window` epochs, m⁰ over the first.

    Args:
        graph: {loss: losses it builds on}.
        history: (E, losses) mean of each loss in past epochs, columns in the graph's order.
        num_epochs: epochs of the run.
        window: epochs, at least 3.

    Returns:
        (losses,) float64 in [0, 1].
    """
    names, history = list(graph), history.double()
    weights = torch.tensor([0.0 if graph[name] else 1.0 for name in names]).double()
    epoch = len(history)
    if epoch < window:
        return weights
    fall, first_fall = (
        (part[:-2] - part[2:]).mean(dim=0) for part in (history[-window:], history[:window])
    )
    # A loss that has not fallen from the start cannot be waited for.
    ratio = (fall / first_fall).nan_to_num(nan=0.0, posinf=1.0, neginf=0.0)
    settled = dict(zip(names, 1 - ratio.relu(), strict=True))
    time = min((epoch - window) / max(num_epochs - window, 1), 1.0)
    for index, name in enumerate(names):
        if graph[name]:
            control = torch.stack([settled[other] for other in graph[name]]).prod()
            # Two prerequisites that fall faster than at first have a positive product: never above 1.
            weights[index] = (time ** (1 - control)).clamp(max=1.0)
    return weights


class TaskLearning(HookBase):
    """Sets a training step's loss weights by :func:`task_weights`, epoch by epoch.

    The official code first passes over the data without training to have the losses of an epoch 0, and its
    weights are an epoch older. Here the weights of an epoch follow from the epochs before it. All workers
    hold the same state; it is saved with checkpoints, so that a resumed run goes on as if it had not stopped.

    Register it before the hook that saves checkpoints.

    Args:
        step: what takes `loss_weights` and holds the latest `losses`, both by name
            (:class:`qiml.engine.train_step.TrainStep`).
        graph: {loss: losses it builds on}.
        batch_size: of the global batch.
        period: iterations of an "epoch"; 0: those of a real one.
        window: of :func:`task_weights`.
        length: "epochs" after which every loss counts fully; 0: those of the run.
    """

    def __init__(
        self,
        step,
        graph: Mapping[str, Sequence[str]],
        *,
        batch_size: int,
        period: int,
        window: int,
        length: int = 0,
    ):
        self.step, self.graph = step, graph
        self.batch_size, self.fixed_period = batch_size, period
        self.window, self.length = window, length
        self.history = torch.zeros(0, len(graph))
        self.total, self.count = torch.zeros(len(graph)), 0
        self.set_weights(task_weights(graph, self.history, num_epochs=1, window=window))

    @cached_property
    def period(self) -> int:
        """Iterations between two updates; of an epoch only known once the data is there."""
        frames = 0 if self.fixed_period else len(self.step.data_loader.dataset)
        return self.fixed_period or max(round(frames / self.batch_size), 1)

    def set_weights(self, weights: Tensor) -> None:
        self.weights = weights
        self.step.loss_weights = dict(zip(self.graph, weights.tolist(), strict=True))

    def before_step(self) -> None:
        if self.trainer.iter == self.trainer.start_iter:
            periods = self.trainer.max_iter / self.period
            if periods <= self.window:
                logger.warning(
                    "Task learning: this run is %.1f periods of %d iterations long, and losses that build on "
                    "others weigh 0 in the first %d. Lower SOLVER.TASK_LEARNING.PERIOD.",
                    *(periods, self.period, self.window),
                )

    def after_step(self) -> None:
        losses = torch.stack([self.step.losses[name].float() for name in self.graph])
        if world_size() > 1:
            dist.all_reduce(losses)
            losses /= world_size()
        self.total = self.total.to(losses.device) + losses
        self.count += 1
        if (self.trainer.iter + 1) % self.period == 0:
            self.finish_epoch()

    def finish_epoch(self) -> None:
        """Note the epoch's mean losses and weigh the next one's."""
        self.history = torch.cat([self.history, (self.total / self.count)[None].cpu()])
        self.total, self.count = torch.zeros_like(self.total), 0
        num_epochs = self.length or self.trainer.max_iter / self.period
        self.set_weights(task_weights(self.graph, self.history, num_epochs, self.window))
        for name, weight in self.step.loss_weights.items():
            self.trainer.storage.put_scalar(f"task_weight/{name}", weight, smoothing_hint=False)

    def state_dict(self) -> dict:
        return {
            "history": self.history,
            "total": self.total,
            "count": self.count,
            "weights": self.weights,
        }

    def load_state_dict(self, state_dict: dict) -> None:
        self.history, self.total = state_dict["history"], state_dict["total"]
        self.count = state_dict["count"]
        self.set_weights(state_dict["weights"])
