"""One optimisation step, on one worker or as one of many."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from qiml.losses.reduction import world_size


class TrainStep(SimpleTrainer):
    """One optimisation step; float16 gradients are scaled, bfloat16 and float32 ones need no scaling."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scale_gradients: bool,
        clip_gradients: Callable[[Iterable[nn.Parameter]], object] | None = None,
    ):
        super().__init__(model, data_loader=(), optimizer=optimizer)
        self.scaler = torch.amp.GradScaler(enabled=scale_gradients)
        self.clip_gradients = clip_gradients
        # By name of the loss, 1 for those not named, and the latest losses, unweighted: see TaskLearning.
        self.loss_weights: dict[str, float] = {}
        self.losses: dict[str, torch.Tensor] = {}
        self._batches: Iterator = iter(())

    def start(self, data_loader: Iterable) -> None:
        """Begin to read: after a resume, which decides where the data starts."""
        self.data_loader = data_loader
        self._batches = iter(data_loader)

    def stop(self) -> None:
        """End the loader's processes: told to by a signal alone, they would wait for what is no longer read.

        After an error they do not end by themselves, since its traceback holds what reads from them.
        """
        shut_down = getattr(self._batches, "_shutdown_workers", None)  # PyTorch has no public way
        if shut_down:
            shut_down()
        self.data_loader, self._batches = (), iter(())

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        losses = self.model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        total = sum(self.loss_weights.get(name, 1.0) * loss for name, loss in losses.items())
        self.scaler.scale(total).backward()
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        average_running_statistics(self.model)  # not before: the backward pass holds them
        # Raises on NaN or infinity, before the weights take them up. One copy from the device for all.
        values = torch.stack(list(self.losses.values())).cpu()
        self._write_metrics(dict(zip(losses, values, strict=True)), data_time)
        if self.clip_gradients is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip_gradients(self.model.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict["grad_scaler"]:  # empty from where gradients were not scaled, as on a CPU
            self.scaler.load_state_dict(state_dict["grad_scaler"])


def distribute(model: nn.Module) -> nn.Module:
    """The model as this worker's replica; itself where it is the only worker."""
    if world_size() == 1:
        return model
    # Told of devices, it would copy every tensor of the batch by itself, waiting for each.
    return DistributedDataParallel(model, broadcast_buffers=False)


def average_running_statistics(model: nn.Module) -> None:
    """Give batch normalisation's running mean and variance their mean over the workers.

    Each worker normalises by its own share of the batch. With the mean of what they saw all workers hold
    the same model: it does not matter whose is saved, evaluated or resumed.
    """
    if world_size() == 1:
        return
    layers = [
        m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None
    ]
    statistics = [s for layer in layers for s in (layer.running_mean, layer.running_var)]
    if not statistics:
        return
    flat = torch.cat(statistics)
    dist.all_reduce(flat)
    flat /= world_size()
    torch._foreach_copy_(statistics, list(flat.split([len(s) for s in statistics])))
