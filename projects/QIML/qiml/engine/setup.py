"""What every run does first, whichever entry point started it."""

import argparse

from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from qiml.engine.memory import keep_freed_memory
from qiml.errors import ConfigError


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
