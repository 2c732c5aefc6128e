"""The record of a run: metrics.json, TensorBoard and speed, without gaps or repeats after a resume."""

import json
import logging
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)

from qiml.io import atomic_write_text

METRICS_FILE = "metrics.json"
WINDOW = 20  # steps a logged value is smoothed over, in Detectron2's writers
# Differ from run to run: checkpoints, which are a function of config and seed, leave them out.
TIMINGS = {
    *("time", "data_time", "rank_data_time", "eta_seconds"),
    *("images_per_second_per_worker", "data_wait"),
}

logger = logging.getLogger(__name__)


def build_writers(output_dir: str, start_iter: int, max_iter: int) -> list[EventWriter]:
    """Terminal, metrics.json and TensorBoard, whose entries from `start_iter` on are replaced."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter, window_size=WINDOW),
        JSONWriter(str(Path(output_dir) / METRICS_FILE), window_size=WINDOW),
        TensorboardXWriter(output_dir, window_size=WINDOW, purge_step=start_iter or None),
    ]


def forget_metrics_from(output_dir: str, iteration: int) -> None:
    """Drop the lines of metrics.json that a run resumed at `iteration` writes again, and a torn last line."""
    path = Path(output_dir) / METRICS_FILE
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            is_past = json.loads(line)["iteration"] < iteration
        except (ValueError, KeyError, TypeError, RecursionError):
            is_past = False
        if is_past and line.endswith("\n"):
            kept.append(line)
    atomic_write_text(path, "".join(kept))


class ResumableMetrics(HookBase):
    """Saves the latest values of every metric, so that the first ones logged after a resume are as smooth."""

    def __init__(self):
        self._restored: dict[str, list] = {}

    def before_train(self) -> None:
        histories = self.trainer.storage.histories()
        for name, values in self._restored.items():
            for value, iteration in values:
                histories[name].update(value, iteration)

    def state_dict(self) -> dict:
        return {
            name: history.values()[-WINDOW:]
            for name, history in self.trainer.storage.histories().items()
            if name not in TIMINGS
        }

    def load_state_dict(self, state_dict: dict) -> None:
        self._restored = state_dict


class Throughput(HookBase):
    """Logs images per second and worker, and the share of the time spent waiting for data.

    Metrics: `images_per_second_per_worker`, and `data_wait` from 0 to 1. Register it after Detectron2's
    IterationTimer.

    Args:
        batch_size: of the global batch.
        period: steps between two lines in the log.
    """

    def __init__(self, batch_size: int, period: int = WINDOW):
        self.batch_size, self.period = batch_size, period

    def after_step(self) -> None:
        if not comm.is_main_process():
            return
        storage = self.trainer.storage
        latest = storage.latest()
        if "time" not in latest or latest["time"][1] != self.trainer.iter:
            return  # the timer leaves out the first steps
        seconds = max(latest["time"][0], 1e-9)
        rate = self.batch_size / comm.get_world_size() / seconds
        wait = min(latest["data_time"][0] / seconds, 1.0)
        storage.put_scalars(images_per_second_per_worker=rate, data_wait=wait)
        if (self.trainer.iter + 1) % self.period == 0:
            logger.info(
                "%.1f images/s per worker; %.0f %% of the time waiting for data",
                storage.history("images_per_second_per_worker").median(self.period),
                100 * storage.history("data_wait").avg(self.period),
            )
