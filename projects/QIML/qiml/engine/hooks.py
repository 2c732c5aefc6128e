"""Hooks of the trainer: what happens around a step, beside Detectron2's own."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from fvcore.common.checkpoint import Checkpointer
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from qiml.engine.train_step import average_running_statistics
from qiml.visualization.frame import frame_panel

logger = logging.getLogger(__name__)


class PreciseBatchNorm(HookBase):
    """Measures batch normalisation's statistics anew, on the training's first batches, before an evaluation.

    Unlike Detectron2's PreciseBN it takes the same batches every time, so that its result is a function of
    the weights and not of how often the run was interrupted, and averages over workers. Register it before
    the hook that saves checkpoints.

    Args:
        model: the one that is evaluated.
        build_loader: makes a training loader that starts at the first iteration.
        num_iter: batches.
        period: iterations between two measurements, 0 for none but after the last iteration.
    """

    def __init__(
        self, model: nn.Module, build_loader: Callable[[], Iterable], *, num_iter: int, period: int
    ):
        self.model, self.build_loader = model, build_loader
        self.num_iter, self.period = num_iter, period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0):
            logger.info("Measuring batch normalisation's statistics on %d batches", self.num_iter)
            was_training = self.model.training
            self.model.train()
            layers = [_Moments(layer) for layer in get_bn_modules(self.model)]
            with EventStorage(), torch.no_grad():
                # Every batch, also where this worker's part is without objects: losses wait for all workers.
                for batch in islice(iter(self.build_loader()), self.num_iter):
                    self.model(batch)
            for layer in layers:
                layer.finish()
            self.model.train(was_training)
            average_running_statistics(self.model)


class _Moments:
    """Mean and variance of all that comes through a layer of batch normalisation, however it is batched.

    As fvcore's `update_bn_stats`, but for layers that little or nothing comes through: a second stage
    has no regions in images without objects. Without any, the layer keeps its statistics.
    """

    def __init__(self, layer: nn.Module):
        self.layer, self.momentum = layer, layer.momentum
        self.kept = layer.running_mean.clone(), layer.running_var.clone()
        self.mean, self.square = (torch.zeros_like(kept) for kept in self.kept)
        self.count = 0
        layer.momentum = 1.0  # its statistics become those of the batch
        self.hook = layer.register_forward_hook(self._add)

    def _add(self, layer: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        values = inputs[0].numel() // inputs[0].shape[1]
        if not values:
            return
        self.count += values
        share = values / self.count
        square = layer.running_mean.square() + layer.running_var * ((values - 1) / values)
        self.mean += (layer.running_mean - self.mean) * share
        self.square += (square - self.square) * share

    def finish(self) -> None:
        """Give the layer what was measured."""
        self.hook.remove()
        self.layer.momentum = self.momentum
        measured = (self.mean, self.square - self.mean.square()) if self.count else self.kept
        self.layer.running_mean.copy_(measured[0])
        self.layer.running_var.copy_(measured[1])


class Evaluate(EvalHook):
    """Detectron2's EvalHook, but a training that failed in its last iteration is not evaluated."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class ShowPredictions(HookBase):
    """Puts pictures of what the model detects in a few frames, the same ones every time, into TensorBoard.

    Training goes on as if it had not been there. Works on the main process alone, without the others.

    Args:
        model: being trained or its average, not a distributed wrapper.
        read_frames: gives dataset dicts, when training starts.
        mapper: dataset dict → input of the model.
        class_names: names by class number.
        period: iterations between two pictures of a frame; there is one at the end, too.
    """

    def __init__(
        self,
        model: nn.Module,
        read_frames: Callable[[], Sequence[dict]],
        mapper: Callable[[dict], dict],
        *,
        class_names: Sequence[str],
        period: int,
    ):
        self.model, self.read_frames, self.mapper = model, read_frames, mapper
        self.class_names, self.period = class_names, period
        self._frames: Sequence[dict] = ()

    def before_train(self) -> None:
        self._frames = self.read_frames()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period and done != self.trainer.max_iter:
            return
        with inference_context(self.model), torch.no_grad():
            for frame in self._frames:
                found = self.model([self.mapper(frame)])[0]["instances"].to("cpu")
                picture = frame_panel(frame, found, self.class_names)
                name = f"predictions/{frame['image_id']}"
                self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))


class StopOnSignal(HookBase):
    """On SIGTERM or Ctrl-C: finish the step, save a checkpoint, stop. A second of its kind stops at once.

    With several workers all stop after the same step, whichever was told to. Does nothing outside the
    main thread, where Python takes no signals. Register it last.

    Args:
        checkpointer: saves the checkpoint.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, checkpointer: Checkpointer):
        self.checkpointer = checkpointer
        self._previous = {}
        self._received: signal.Signals | None = None
        self._at_once = False

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._receive) for s in self.SIGNALS}

    def after_train(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, _frame) -> None:
        self._received = self._received or signal.Signals(number)
        # Of its kind alone: where the main process of several workers ends, the system sends them SIGINT.
        signal.signal(number, signal.SIG_DFL)
        if self._at_once:
            self._at_once = False
            raise _Interrupted

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal does not wait for the end of the step: what is interrupted changes no weights."""
        self.after_step()  # a signal from before does not wait either
        self._at_once = comm.get_world_size() == 1  # others would wait for this worker in vain
        interrupted = False
        try:
            yield
        except _Interrupted:
            interrupted = True
        finally:
            self._at_once = False
        # Not in the clause above: what was interrupted, such as a loader and its processes, has ended here.
        if interrupted:
            self._stop()

    def after_step(self) -> None:
        if self._any_worker_received():
            self._stop()

    def _any_worker_received(self) -> bool:
        if comm.get_world_size() == 1:
            return self._received is not None
        told = torch.tensor(int(self._received is not None))
        dist.all_reduce(told, group=comm._get_global_gloo_group())
        return bool(told)

    def _stop(self) -> None:
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        if done < self.trainer.max_iter and comm.is_main_process():
            self.checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        logger.warning(
            "Stopped by %s after %d of %d iterations; a checkpoint is saved. To go on, add --resume",
            self._received.name if self._received else "a signal to another worker",
            *(done, self.trainer.max_iter),
        )
        raise SystemExit(0)


class _Interrupted(BaseException):
    """A signal came where nothing needs to be finished first."""
