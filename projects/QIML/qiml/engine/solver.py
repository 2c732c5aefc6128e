"""Optimiser and learning-rate schedule."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from qiml.errors import ConfigError

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER, each parameter with its learning rate and weight decay.

    Weights have SOLVER.{BASE_LR, WEIGHT_DECAY}; biases BIAS_LR_FACTOR times that rate, and WEIGHT_DECAY_BIAS.
    Where SOLVER.WEIGHT_DECAY_NORM is set, it holds for all parameters of normalisation layers, at BASE_LR.
    """
    solver = cfg.SOLVER
    _check_choice("SOLVER.OPTIMIZER", solver.OPTIMIZER, OPTIMIZERS)
    bias = {"lr": solver.BASE_LR * solver.BIAS_LR_FACTOR, "weight_decay": solver.WEIGHT_DECAY_BIAS}
    norm = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY_NORM}
    weights = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    groups = {"weights": [], "biases": [], "norms": []}
    for module in model.modules():
        is_norm = solver.WEIGHT_DECAY_NORM is not None and isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=False):
            kind = "norms" if is_norm else "biases" if name.endswith("bias") else "weights"
            groups[kind].append(parameter)
    options = {"weights": weights, "biases": bias, "norms": norm}
    optimizer = OPTIMIZERS[solver.OPTIMIZER]
    return optimizer(
        [{"params": params, **options[kind]} for kind, params in groups.items() if params],
        lr=solver.BASE_LR,
        betas=tuple(solver.BETAS),
        fused=True,
    )


def build_gradient_clipper(cfg) -> Callable[[Iterable[nn.Parameter]], object] | None:
    """A function that clips the gradients of parameters as SOLVER.CLIP_GRADIENTS says; None: no clipping."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None

    def by_value(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_value_(parameters, clip.CLIP_VALUE)

    def by_total_norm(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    def by_norm(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            by_total_norm([parameter])

    return {"value": by_value, "norm": by_norm, "full_model": by_total_norm}[clip.CLIP_TYPE]


def build_lr_scheduler(cfg, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """Half-cosine warm-up from SOLVER.WARMUP_START_LR, then the decay of SOLVER.LR_SCHEDULER_NAME.

    "CyclicLR" has no warm-up, and moves the optimiser's β₁ too.
    """
    solver = cfg.SOLVER
    start = solver.WARMUP_START_LR / solver.BASE_LR

    def multi_step(iteration: int) -> float:
        return solver.GAMMA ** bisect_right(solver.STEPS, iteration)

    def cosine(iteration: int) -> float:
        progress = (iteration - solver.WARMUP_ITERS) / max(solver.MAX_ITER - solver.WARMUP_ITERS, 1)
        return _half_cosine(1, 0, progress)

    decays = {"WarmupMultiStepLR": multi_step, "WarmupCosineLR": cosine}
    _check_choice("SOLVER.LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME, [*decays, "CyclicLR"])
    if solver.LR_SCHEDULER_NAME == "CyclicLR":
        return CyclicLR(
            optimizer,
            max_iter=solver.MAX_ITER,
            rise=solver.CYCLIC.RISE,
            peak=solver.CYCLIC.PEAK,
            final=solver.CYCLIC.FINAL,
            momentum=(solver.BETAS[0], solver.CYCLIC.MOMENTUM),
        )
    decay = decays[solver.LR_SCHEDULER_NAME]

    def factor(iteration: int) -> float:
        if iteration < solver.WARMUP_ITERS:
            return _half_cosine(start, 1, iteration / solver.WARMUP_ITERS)
        return decay(iteration)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class CyclicLR(torch.optim.lr_scheduler.LambdaLR):
    """One cycle of learning rate and momentum, both functions of the iteration alone.

    Source: MMCV's `CyclicLrUpdaterHook` and `CyclicMomentumUpdaterHook`, which MonoCon is trained with.

    Args:
        optimizer: of Adam's family.
        max_iter: iterations of the run.
        rise: share of the run in which the learning rate rises.
        peak, final: factors on the learning rate, after the rise and at the end.
        momentum: β₁ at both ends, and after the rise.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        max_iter: int,
        rise: float,
        peak: float,
        final: float,
        momentum: tuple[float, float],
    ):
        self.max_iter, self.top = max_iter, int(rise * max_iter)
        self.momentum = momentum
        super().__init__(optimizer, lambda iteration: self._between(iteration, 1, peak, final))

    def get_lr(self) -> list[float]:
        """Learning rates of this iteration; sets its β₁ on the way."""
        outer, inner = self.momentum
        beta = self._between(self.last_epoch, outer, inner, outer)
        for group in self.optimizer.param_groups:
            group["betas"] = (beta, group["betas"][1])
        return super().get_lr()

    def state_dict(self) -> dict:
        # What the config says is no state: a run may go on with another number of iterations.
        own = ("max_iter", "top", "momentum")
        return {key: value for key, value in super().state_dict().items() if key not in own}

    def _between(self, iteration: int, first: float, middle: float, last: float) -> float:
        if iteration < self.top:
            return _half_cosine(first, middle, iteration / self.top)
        return _half_cosine(middle, last, (iteration - self.top) / max(self.max_iter - self.top, 1))


def _half_cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine."""
    return start + (end - start) * (1 - math.cos(math.pi * progress)) / 2


def _check_choice(key: str, value: str, choices) -> None:
    if value not in choices:
        raise ConfigError(
            key, found=repr(value), expected=f"one of {sorted(choices)}", mend="correct the key"
        )
