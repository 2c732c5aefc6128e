"""The trainer of train_net.py: Detectron2's, on CPU and GPU, with data that is a function of the seed."""

import logging
import weakref
from functools import partial

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

import qiml.modeling  # noqa: F401  registers the detector
from qiml.data.catalog import register_datasets
from qiml.data.loader import build_test_loader, build_train_loader
from qiml.data.mapper import MonocularMapper
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.ema import WeightAverage
from qiml.engine.hooks import Evaluate, PreciseBatchNorm, ShowPredictions, StopOnSignal
from qiml.engine.metrics import (
    WINDOW,
    ResumableMetrics,
    Throughput,
    build_writers,
    forget_metrics_from,
)
from qiml.engine.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from qiml.engine.task_learning import TaskLearning
from qiml.engine.train_step import TrainStep, distribute
from qiml.engine.trained import build_detector
from qiml.errors import ConfigError, QIMLError, is_mendable
from qiml.evaluation.kitti_evaluator import KITTIEvaluator
from qiml.evaluation.kitti_rules import difficulties_with_visible
from qiml.evaluation.waymo_evaluator import WaymoEvaluator
from qiml.io import remove_partial
from qiml.visualization.report import write_report

FINAL_CHECKPOINT = "model_final"  # as Detectron2 names it
_FRAMES_SHOWN = 4  # in TensorBoard

logger = logging.getLogger(__name__)


def _is_programming_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_mendable(record.exc_info[1]))


# Detectron2 logs whatever ends a training with its traceback. Of what a user can mend, the entry point
# prints the one line that matters.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_programming_error)


class Trainer(DefaultTrainer):
    """Builds everything a config names; the training loop, most hooks and writers are Detectron2's.

    A run that was interrupted at any moment and resumed ends as one that was not, bit for bit on a CPU:
    weights, optimiser and metrics.

    Args:
        cfg: with Detectron2's and QIML's keys.
        after_checkpoint: a further hook, run behind the one that saves checkpoints; None: no such.
    """

    def __init__(self, cfg, after_checkpoint: HookBase | None = None):
        # Not DefaultTrainer's own constructor: it opens the data before a resume can say where to start,
        # and its mixed precision and distributed wrapper need CUDA.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        scale_gradients = cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16"
        self._trainer = TrainStep(
            distribute(model), optimizer, scale_gradients, build_gradient_clipper(cfg)
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectorCheckpointer(
            model, cfg.OUTPUT_DIR, keep=cfg.SOLVER.CHECKPOINTS_KEPT, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.cfg, self._last_eval_results = cfg, None
        self.register_hooks(self.build_hooks(after_checkpoint))

    def build_hooks(self, after_checkpoint: HookBase | None = None) -> list[HookBase | None]:
        """What happens around each step, in this order.

        What changes the state of the run stands before the checkpointer, so that it is saved.
        """
        cfg = self.cfg
        average, evaluated = None, self.checkpointer.model
        if cfg.MODEL_EMA.ENABLED:
            average = WeightAverage(evaluated, cfg.MODEL_EMA.DECAY)
            evaluated = average.averaged_model
        learning = None
        if cfg.SOLVER.TASK_LEARNING.ENABLED:
            learning = _build_task_learning(cfg, self.checkpointer.model.box3d_head, self._trainer)
        precise = None
        if cfg.TEST.PRECISE_BN.ENABLED:
            loader = partial(self.build_train_loader, _loading_in_process(cfg))
            precise = PreciseBatchNorm(
                evaluated,
                loader,
                num_iter=cfg.TEST.PRECISE_BN.NUM_ITER,
                period=cfg.TEST.EVAL_PERIOD,
            )
        checkpoint = None
        if comm.is_main_process():
            checkpoint = hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
        show = None
        if cfg.VIS_PERIOD > 0 and cfg.DATASETS.TEST and comm.is_main_process():
            show = _build_show_predictions(cfg, evaluated)
        stop = StopOnSignal(self.checkpointer)

        def evaluate():
            with stop.at_once():
                self._last_eval_results = self.test(cfg, evaluated)
            return self._last_eval_results

        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            learning,
            average,
            precise,
            Throughput(cfg.SOLVER.IMS_PER_BATCH),
            ResumableMetrics(),
            checkpoint,
            after_checkpoint,
            # After the checkpoint: if this fails, it can be looked into.
            Evaluate(cfg.TEST.EVAL_PERIOD, evaluate),
            show,
            stop,
        ]

    def train(self):
        """Train from the start or resumed iteration to SOLVER.MAX_ITER; returns the last results, if any."""
        for name in self.cfg.DATASETS.TEST:
            DatasetCatalog.get(name)  # what is wrong there must not wait until the training is over
        if self.start_iter < self.max_iter:
            self._trainer.start(self.build_train_loader(self.cfg, self.start_iter))
        elif comm.is_main_process() and not self.checkpointer.last_is(FINAL_CHECKPOINT):
            self.checkpointer.copy_last(FINAL_CHECKPOINT)  # interrupted between its last two
        if comm.is_main_process():
            # Last and only now: they open their files, which a resume may have changed.
            self.register_hooks([hooks.PeriodicWriter(self.build_writers(), period=WINDOW)])
        try:
            super().train()
        finally:
            self._trainer.stop()
        write_report_of(self.cfg)
        return self._last_eval_results

    def after_train(self) -> None:
        # One too many where a run that was interrupted in its last evaluation comes back for that alone.
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        if comm.is_main_process():
            remove_partial(self.cfg.OUTPUT_DIR)
            if resume:
                forget_metrics_from(self.cfg.OUTPUT_DIR, self.start_iter)

    def build_writers(self):
        return build_writers(self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter)

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
        model = build_detector(cfg).to(memory_format=torch.channels_last)
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
        if MetadataCatalog.get(dataset_name).get("evaluator_type") == "waymo":
            return WaymoEvaluator(dataset_name, cfg.OUTPUT_DIR)
        difficulties = difficulties_with_visible(cfg.TEST.VISIBLE_MIN_HEIGHT)
        return KITTIEvaluator(dataset_name, cfg.OUTPUT_DIR, difficulties=difficulties)


def _build_task_learning(cfg, head: nn.Module, step: TrainStep) -> TaskLearning:
    if not hasattr(head, "task_graph"):
        raise ConfigError(
            "SOLVER.TASK_LEARNING.ENABLED",
            found=f"True with MODEL.BOX3D_HEAD.NAME {cfg.MODEL.BOX3D_HEAD.NAME}",
            expected="a head that says which loss builds on which (`task_graph`), such as GUPNetHead",
            mend="set it to False",
        )
    return TaskLearning(
        step,
        head.task_graph,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        period=cfg.SOLVER.TASK_LEARNING.PERIOD,
        window=cfg.SOLVER.TASK_LEARNING.WINDOW,
        length=cfg.SOLVER.TASK_LEARNING.LENGTH,
    )


def write_report_of(cfg) -> None:
    """The report of a run that has just been evaluated, where the config asks for one.

    A run that cannot have one does not fail: the log says why.
    """
    if not (cfg.TEST.REPORT and cfg.DATASETS.TEST and comm.is_main_process()):
        return
    try:
        logger.info("Report, to be opened in a browser: %s", write_report([cfg.OUTPUT_DIR]))
    except QIMLError as error:
        logger.warning("No report is written. %s", error)


def _build_show_predictions(cfg, model: nn.Module) -> ShowPredictions:
    name = cfg.DATASETS.TEST[0]

    def read_frames() -> list[dict]:
        frames = DatasetCatalog.get(name)
        labelled = [frame for frame in frames if frame.get("annotations")] or frames
        chosen = np.linspace(0, len(labelled) - 1, min(_FRAMES_SHOWN, len(labelled)))
        return [labelled[index] for index in chosen.astype(int)]

    return ShowPredictions(
        model,
        read_frames,
        MonocularMapper(cfg, is_train=False),
        class_names=MetadataCatalog.get(name).thing_classes,
        period=cfg.VIS_PERIOD,
    )


def _loading_in_process(cfg):
    """For a loader beside the training's, whose worker processes still hold their memory."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg
