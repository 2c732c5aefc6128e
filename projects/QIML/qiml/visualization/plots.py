"""Curves as pictures, drawn by Matplotlib without a display."""

from collections.abc import Mapping, Sequence

import numpy as np

from qiml.evaluation.kitti_evaluation import KITTIEvaluation
from qiml.evaluation.kitti_plot import precision_recall_figure

_BINS = tuple(range(0, 81, 10))
_LEAST_OBJECTS = 3  # a median of fewer would mislead


def draw_precision_recall(evaluation: KITTIEvaluation) -> np.ndarray:
    """The curves of :func:`qiml.evaluation.kitti_plot.precision_recall_figure`, (H, W, 3) uint8 RGB."""
    return _render(precision_recall_figure(evaluation))


def draw_depth_errors(
    errors: Mapping[str, tuple[np.ndarray, np.ndarray]], bins: Sequence[float] = _BINS
) -> np.ndarray:
    """Depth error by distance: a point for each matched object, a line through the medians of |error|.

    Args:
        errors: name (a class or a run) → true depth (N,) and detected − true depth (N,), in metres.
        bins: borders of the distances in metres over which medians are taken.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    borders = np.asarray(bins, dtype=float)
    for number, (name, (depth, error)) in enumerate(errors.items()):
        depth, error = np.asarray(depth), np.abs(error)
        axes.plot(depth, error, ".", color=f"C{number}", markersize=3, alpha=0.3)
        index = np.digitize(depth, borders) - 1
        medians = [
            np.median(error[index == i]) if (index == i).sum() >= _LEAST_OBJECTS else np.nan
            for i in range(len(borders) - 1)
        ]
        centres = (borders[:-1] + borders[1:]) / 2
        axes.plot(centres, medians, "o-", color=f"C{number}", label=f"{name}: median")
    axes.set(xlabel="true depth (m)", ylabel="|depth error| (m)")
    axes.set_xlim(left=borders[0])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if errors:
        axes.legend(fontsize=8)
    return _render(figure)


def _render(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(120)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
