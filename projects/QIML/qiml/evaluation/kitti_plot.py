"""Precision–recall curves as a picture."""

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qiml.evaluation.figure import check_picture
from qiml.evaluation.kitti_evaluation import KITTIEvaluation
from qiml.evaluation.kitti_rules import METRICS, RECALL_POINTS
from qiml.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")


def plot_precision_recall(evaluation: KITTIEvaluation, path: str | Path) -> None:
    """Write the curves as a picture.

    Args:
        evaluation: what to draw.
        path: picture to write; the extension chooses the format (.png, .pdf, .svg).

    Raises:
        ConfigError: Matplotlib is missing or does not know the extension.
    """
    check_picture(path)
    with atomic_path(path) as temporary:
        precision_recall_figure(evaluation).savefig(temporary, dpi=120)


def precision_recall_figure(evaluation: KITTIEvaluation) -> "Figure":
    """A panel for each class and metric: a colour for each difficulty, a dash for each table."""
    from matplotlib.figure import Figure  # draws without a display and without global state

    classes = list(dict.fromkeys(name for found in evaluation.curves.values() for name in found))
    shape = (max(1, len(classes)), len(METRICS))
    figure = Figure(figsize=(3.4 * shape[1], 2.8 * shape[0] + 0.4), layout="constrained")
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    recall = np.linspace(0, 1, RECALL_POINTS)
    for row, name in zip(panels, classes, strict=False):
        for axes, metric in zip(row, METRICS, strict=True):
            axes.set(title=f"{name} {metric}", xlim=(0, 1), ylim=(0, 1.02))
            axes.grid(alpha=0.3)
            drawn = set()
            for style, (table, found) in zip(
                cycle(_STYLES), evaluation.curves.items(), strict=False
            ):
                limit = evaluation.overlaps[table][name].of(metric)
                if limit in drawn or metric not in found.get(name, {}):
                    continue
                drawn.add(limit)
                for i, level in enumerate(evaluation.difficulties):
                    label = f"{level.name}, IoU > {limit:g}"
                    axes.plot(recall, found[name][metric][i], style, color=f"C{i}", label=label)
            if axes.lines:
                axes.legend(fontsize=6)
    figure.supxlabel("recall")
    figure.supylabel("precision (aos: orientation similarity)")
    return figure
