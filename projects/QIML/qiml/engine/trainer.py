"""The trainer of train_net.py: Detectron2's, on CPU and GPU, with data that is a function of the seed."""

import logging
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import qiml.modeling  # noqa: F401  registers the detector
from qiml.data.catalog import register_datasets
from qiml.data.loader import build_test_loader, build_train_loader
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from qiml.errors import QIMLError
from qiml.evaluation.kitti import KITTI_DIFFICULTIES, VISIBLE
from qiml.evaluation.kitti_evaluator import KITTIEvaluator

logger = logging.getLogger(__name__)


def _is_programming_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], QIMLError))


# Detectron2 logs whatever ends a training with its traceback. Of what a user can mend, the entry point
# prints the one line that matters.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_programming_error)


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

    def start(self, data_loader: Iterable) -> None:
        """Begin to read: after a resume, which decides where the data starts."""
        self.data_loader = data_loader
        self._batches = iter(data_loader)

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        losses = self.model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(sum(losses.values())).backward()
        # Raises on NaN or infinity, before the weights take them up.
        self._write_metrics(losses, data_time)
        if self.clip_gradients is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip_gradients(self.model.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.scaler.load_state_dict(state_dict["grad_scaler"])


class Trainer(DefaultTrainer):
    """Builds everything a config names; hooks, writers and the training loop are Detectron2's."""

    def __init__(self, cfg):
        # Not DefaultTrainer's own constructor: it opens the data before a resume can say where to start,
        # and its mixed precision and distributed wrapper need CUDA.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        scale_gradients = cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16"
        self._trainer = TrainStep(
            _distribute(model), optimizer, scale_gradients, build_gradient_clipper(cfg)
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectorCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def train(self):
        """Train from the start or resumed iteration to SOLVER.MAX_ITER; returns the last results, if any."""
        for name in self.cfg.DATASETS.TEST:
            DatasetCatalog.get(name)  # what is wrong there must not wait until the training is over
        if self.start_iter < self.max_iter:
            self._trainer.start(self.build_train_loader(self.cfg, self.start_iter))
        super().train()
        return getattr(self, "_last_eval_results", None)

    def state_dict(self) -> dict:
        # Not DefaultTrainer's: in Detectron2 0.6 it has none, and a resumed run would start with an empty
        # optimiser and a second warm-up; later versions save the step under another name.
        return {
            **TrainerBase.state_dict(self),
            "step": self._trainer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["step"])
        self.scheduler.load_state_dict(state_dict["scheduler"])

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        model = build_model(cfg).to(memory_format=torch.channels_last)
        parameters = sum(p.numel() for p in model.parameters())
        logger.info("%s with %.2f M parameters", type(model).__name__, parameters / 1e6)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer: torch.optim.Optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg, start_iteration: int = 0):
        return build_train_loader(cfg, start_iteration)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        difficulties = KITTI_DIFFICULTIES
        if cfg.TEST.VISIBLE_MIN_HEIGHT > 0:
            difficulties = (
                *difficulties,
                replace(VISIBLE, min_height=cfg.TEST.VISIBLE_MIN_HEIGHT),
            )
        return KITTIEvaluator(dataset_name, cfg.OUTPUT_DIR, difficulties=difficulties)


def _distribute(model: nn.Module) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device_ids = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
