"""Optimiser and learning-rate schedule."""

import math
from bisect import bisect_right

import torch
from torch import nn

from qiml.errors import ConfigError

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER with SOLVER.WEIGHT_DECAY on weights and SOLVER.WEIGHT_DECAY_BIAS on biases."""
    _check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, OPTIMIZERS)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    groups = [
        {"params": weights, "weight_decay": cfg.SOLVER.WEIGHT_DECAY},
        {"params": biases, "weight_decay": cfg.SOLVER.WEIGHT_DECAY_BIAS},
    ]
    optimizer = OPTIMIZERS[cfg.SOLVER.OPTIMIZER]
    return optimizer(groups, lr=cfg.SOLVER.BASE_LR, betas=tuple(cfg.SOLVER.BETAS), fused=True)


def build_lr_scheduler(cfg, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """Half-cosine warm-up from SOLVER.WARMUP_START_LR, then the decay of SOLVER.LR_SCHEDULER_NAME."""
    solver = cfg.SOLVER
    start = solver.WARMUP_START_LR / solver.BASE_LR

    def multi_step(iteration: int) -> float:
        return solver.GAMMA ** bisect_right(solver.STEPS, iteration)

    def cosine(iteration: int) -> float:
        progress = (iteration - solver.WARMUP_ITERS) / max(solver.MAX_ITER - solver.WARMUP_ITERS, 1)
        return (1 + math.cos(math.pi * progress)) / 2

    decays = {"WarmupMultiStepLR": multi_step, "WarmupCosineLR": cosine}
    _check_choice("SOLVER.LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME, decays)
    decay = decays[solver.LR_SCHEDULER_NAME]

    def factor(iteration: int) -> float:
        if iteration < solver.WARMUP_ITERS:
            rise = (1 - math.cos(math.pi * iteration / solver.WARMUP_ITERS)) / 2
            return start + (1 - start) * rise
        return decay(iteration)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _check_choice(key: str, value: str, choices) -> None:
    if value not in choices:
        raise ConfigError(
            key, found=repr(value), expected=f"one of {sorted(choices)}", mend="correct the key"
        )
