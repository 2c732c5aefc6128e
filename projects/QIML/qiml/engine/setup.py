"""What every run does first, whichever entry point started it."""

import argparse
import logging
import os
from pathlib import Path

import torch
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from qiml.engine.memory import keep_freed_memory
from qiml.errors import ConfigError
from qiml.modeling.box3d import head_class

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
logger = logging.getLogger(__name__)


def start_run(cfg, args: argparse.Namespace) -> None:
    """Logging, seeds and a copy of the config in OUTPUT_DIR, on one worker of a run.

    Args:
        cfg: of the whole run.
        args: logged; `config_file` and `eval_only` are read where they are there.
    """
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="qiml")
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
        if NVIDIA_DRIVER.exists() and not (hidden or torch.cuda.is_available()):
            logger.warning(
                "Running on the CPU: this machine has an NVIDIA driver, but PyTorch %s finds no GPU that it "
                "can use. `python -m detectron2.utils.collect_env` tells more.",
                torch.__version__,
            )


def check_device(cfg, num_workers: int) -> None:
    """Refuse to name a device for several workers, which take a GPU each where there are any.

    Raises:
        ConfigError: MODEL.DEVICE is something else than "cuda", with several workers on GPUs.
    """
    # Detectron2's launch decides by the same: without a GPU they talk by gloo.
    if num_workers > 1 and torch.cuda.is_available() and cfg.MODEL.DEVICE != "cuda":
        raise ConfigError(
            "MODEL.DEVICE",
            found=f"{cfg.MODEL.DEVICE!r} with {num_workers} workers",
            expected="'cuda': each of them takes a GPU of its own",
            mend="leave it out, or --num-gpus; cluster/train.py --cpu trains with several workers on CPUs",
        )


def check_batch_divides(cfg, num_workers: int) -> None:
    """Refuse a global batch that workers of a fixed number cannot share evenly, before any of them starts.

    Raises:
        ConfigError: SOLVER.IMS_PER_BATCH is no multiple of `num_workers`.
    """
    if cfg.SOLVER.IMS_PER_BATCH % num_workers:
        raise ConfigError(
            "SOLVER.IMS_PER_BATCH",
            found=f"{cfg.SOLVER.IMS_PER_BATCH} with {num_workers} workers",
            expected="a multiple of the number of workers",
            mend="change the batch size or the number of workers",
        )


def check_crop_depth(cfg) -> None:
    """Refuse crops from which the head would learn wrong depths.

    Raises:
        ConfigError: INPUT.AUGMENTATION.CROP_DEPTH does not suit MODEL.BOX3D_HEAD.NAME, or no such head is
            registered.
    """
    augmentation, head = cfg.INPUT.AUGMENTATION, head_class(cfg)
    suitable = ("ignore", getattr(head, "crop_depth", augmentation.CROP_DEPTH))
    if augmentation.CROP > 0 and augmentation.CROP_DEPTH not in suitable:
        raise ConfigError(
            "INPUT.AUGMENTATION.CROP_DEPTH",
            found=f"{augmentation.CROP_DEPTH!r} with MODEL.BOX3D_HEAD.NAME {cfg.MODEL.BOX3D_HEAD.NAME}",
            expected=f"one of {suitable}, from which it would learn right depths",
            mend="correct it, or set INPUT.AUGMENTATION.CROP 0; a head of yours says by its attribute "
            "`crop_depth` what suits it",
        )
