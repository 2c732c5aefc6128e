"""How descriptors lie relative to depth, as a picture."""

from pathlib import Path

import numpy as np

from qiml.evaluation.figure import check_picture
from qiml.evaluation.manifold import (
    MAX_OBJECTS,
    depth_distances,
    embed,
    feature_distances,
    geodesic_distances,
    subsample,
)
from qiml.io import atomic_path

_UNITS = {"metric": "m", "log": "25·ln z"}


def plot_manifold(
    descriptors: np.ndarray,
    depth: np.ndarray,
    path: str | Path,
    *,
    k: float = 1.5,
    b: float = 0.5,
    epsilon: float = 10.0,
    depth_space: str = "metric",
    max_objects: int = MAX_OBJECTS,
) -> None:
    """Draw the embedding coloured by depth, and feature distance over depth distance with the bounds.

    Args:
        descriptors, depth, k, b, epsilon, depth_space, max_objects: as of
            :func:`qiml.evaluation.manifold.measure`.
        path: picture to write; the extension chooses the format (.png, .pdf, .svg).

    Raises:
        ConfigError: Matplotlib is missing or does not know the extension.
    """
    check_picture(path)
    from matplotlib.figure import Figure  # draws without a display and without global state

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    chosen = subsample(len(depth), max_objects)
    descriptors, depth = descriptors[chosen], depth[chosen]
    distances = feature_distances(descriptors)
    x, y = embed(geodesic_distances(distances)).T
    points = left.scatter(x, y, c=depth, s=9, cmap="viridis")
    figure.colorbar(points, ax=left, label="depth (m)")
    left.set(title="embedding along the manifold (Isomap)", aspect="equal")

    upper = np.triu_indices(len(depth), k=1)
    gap, distance = depth_distances(depth, depth_space)[upper], distances[upper]
    shown = (gap > 0) & (gap <= 2 * epsilon)
    if shown.any():
        right.hexbin(gap[shown], distance[shown], gridsize=60, bins="log", cmap="Greys")
    local = np.array([0.0, epsilon])
    right.plot(local, k * local + b, "C3", label=f"bounds: K {k:g}, B {b:g}, ε {epsilon:g}")
    right.plot(local, np.maximum(local / k - b, 0), "C3")
    right.axvline(epsilon, color="C3", linestyle=":")
    right.set(
        title="pairs of objects",
        xlabel=f"depth distance ({_UNITS[depth_space]})",
        ylabel="feature distance",
    )
    right.legend(loc="upper left", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
