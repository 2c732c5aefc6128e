"""Whether object descriptors follow depth: distances, geodesics and neighbours in feature space.

Source of the geodesics and of the embedding: Tenenbaum, de Silva & Langford, A Global Geometric Framework for
Nonlinear Dimensionality Reduction (Isomap; Science 290, 2000).
"""

import math

import numpy as np
import torch

from qiml.losses.quasi_isometric import LOG_DEPTH_SCALE

MAX_OBJECTS = 1000
"""Of more objects, the pairs of a random part are measured: half a million; shortest paths take a second."""


def measure(
    descriptors: np.ndarray,
    depth: np.ndarray,
    *,
    k: float = 1.5,
    b: float = 0.5,
    epsilon: float = 10.0,
    depth_space: str = "metric",
    reference: tuple[np.ndarray, np.ndarray] | None = None,
    neighbours: int = 10,
    max_objects: int = MAX_OBJECTS,
) -> dict[str, float]:
    """Numbers that tell how descriptors lie relative to depth.

    Args:
        descriptors: (N, C).
        depth: (N,) metres.
        k, b, epsilon, depth_space: bounds, as of :class:`qiml.losses.QuasiIsometricLoss`.
        reference: descriptors (M, C) and depth (M,) that depth is predicted from, of training objects; None:
            each object's from the others.
        neighbours: of the graph and of the prediction.
        max_objects: of more, pairs are taken of :func:`subsample`; depth is always predicted for all.

    Returns:
        Values of too few objects, or of distances that are all the same, are NaN:

        - `objects`, `local_pairs`: how many are measured; local: 0 < Δz ≤ ε;
        - `inside`, `too_close`, `too_far`: shares of the local pairs by the bounds;
        - `spearman_local`, `pearson_local`, `spearman_all`, `pearson_all`: correlation of feature distance
          and depth distance, over local pairs and over all;
        - `connected`: share of all pairs that the neighbour graph connects; geodesics leave out the others;
        - `geodesic_spearman`, `geodesic_pearson`: correlation of geodesic distance and depth distance;
        - `geodesic_ratio`: mean of geodesic over Euclidean distance, of pairs apart from each other;
        - `knn_depth_error`: mean absolute error in metres of the mean depth of the nearest neighbours.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or an unknown depth space.
    """
    descriptors, depth = _checked(descriptors, depth)
    chosen = subsample(len(depth), max_objects)
    distances = feature_distances(descriptors[chosen])
    upper = np.triu_indices(len(chosen), k=1)
    distance = distances[upper]
    geodesic = geodesic_distances(distances, neighbours)[upper]
    gap = depth_distances(depth[chosen], depth_space)[upper]
    local = (gap > 0) & (gap <= epsilon)
    connected = np.isfinite(geodesic)
    apart = connected & (distance > 0)
    return {
        "objects": float(len(depth)),
        "local_pairs": float(local.sum()),
        **_shares(distance[local], gap[local], k, b),
        "spearman_local": spearman(distance[local], gap[local]),
        "pearson_local": pearson(distance[local], gap[local]),
        "spearman_all": spearman(distance, gap),
        "pearson_all": pearson(distance, gap),
        "connected": _mean(connected),
        "geodesic_spearman": spearman(geodesic[connected], gap[connected]),
        "geodesic_pearson": pearson(geodesic[connected], gap[connected]),
        "geodesic_ratio": _mean(geodesic[apart] / distance[apart]),
        "knn_depth_error": _neighbour_error(descriptors, depth, reference, neighbours),
    }


def subsample(count: int, limit: int) -> np.ndarray:
    """Indices of `limit` of `count` objects, in order: random, but the same in every call; all of fewer."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))


def feature_distances(descriptors: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances (N, M) of descriptors (N, C) to others (M, C), or to each other; exact near 0."""
    others = descriptors if others is None else others
    a, b = (np.ascontiguousarray(x, dtype=np.float64) for x in (descriptors, others))
    pairs = torch.from_numpy(a), torch.from_numpy(b)
    return torch.cdist(*pairs, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def depth_distances(depth: np.ndarray, depth_space: str = "metric") -> np.ndarray:
    """Distances (N, N) of depths (N,), in metres or, in "log" space, of 25·ln z.

    Raises:
        ValueError: unknown depth space.
    """
    if depth_space not in ("metric", "log"):
        raise ValueError(f"depth_space must be 'metric' or 'log', not {depth_space!r}")
    position = depth if depth_space == "metric" else LOG_DEPTH_SCALE * np.log(depth)
    return np.abs(position[:, None] - position)


def geodesic_distances(distances: np.ndarray, neighbours: int = 10) -> np.ndarray:
    """Shortest paths along the graph that joins each object with its nearest ones, either way.

    By Floyd and Warshall, a row at a time: N³ additions, whatever the graph.

    Args:
        distances: (N, N) symmetric.
        neighbours: of each object.

    Returns:
        (N, N); infinite between objects that no path joins.
    """
    count = len(distances)
    nearest = nearest_others(distances, neighbours)
    paths = np.full((count, count), np.inf)
    rows = np.arange(count)[:, None]
    paths[rows, nearest] = distances[rows, nearest]
    np.fill_diagonal(paths, 0.0)
    paths = np.minimum(paths, paths.T)
    detour = np.empty_like(paths)
    for via in range(count):
        np.add(paths[:, via : via + 1], paths[via], out=detour)
        np.minimum(paths, detour, out=paths)
    return paths


def nearest_others(distances: np.ndarray, neighbours: int) -> np.ndarray:
    """(N, min(neighbours, N − 1)) nearest others of each object, from distances (N, N); unordered."""
    neighbours = min(neighbours, max(len(distances) - 1, 0))
    if neighbours == 0:
        return np.empty((len(distances), 0), dtype=np.int64)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    return np.argpartition(others, neighbours - 1, axis=1)[:, :neighbours]


def embed(geodesic: np.ndarray) -> np.ndarray:
    """Two coordinates whose distances are nearest to the geodesic ones (Isomap: classical scaling).

    Args:
        geodesic: (N, N) of :func:`geodesic_distances`.

    Returns:
        (N, 2), the axis of larger spread first; NaN outside the largest connected part of the graph.
    """
    coordinates = np.full((len(geodesic), 2), np.nan)
    if not len(geodesic):
        return coordinates
    reached = np.isfinite(geodesic)
    part = np.flatnonzero(reached[reached.sum(axis=1).argmax()])
    squared = geodesic[np.ix_(part, part)] ** 2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    axes = vectors[:, ::-1][:, :2] * np.sqrt(np.clip(values[::-1][:2], 0, None))
    # An axis may point either way: the entry farthest out is positive, in every run.
    axes = axes * np.where(axes.max(axis=0) >= -axes.min(axis=0), 1, -1)
    coordinates[part] = 0.0
    coordinates[part, : axes.shape[1]] = axes
    return coordinates


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Linear correlation of two (M,) arrays; NaN where either does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two (M,) arrays, ties with their mean rank; NaN where either does not vary."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _shares(distance: np.ndarray, gap: np.ndarray, k: float, b: float) -> dict[str, float]:
    """Local pairs by where they lie relative to the bounds."""
    close, far = distance < gap / k - b, distance > k * gap + b
    return {"inside": _mean(~(close | far)), "too_close": _mean(close), "too_far": _mean(far)}


def _neighbour_error(
    descriptors: np.ndarray,
    depth: np.ndarray,
    reference: tuple[np.ndarray, np.ndarray] | None,
    neighbours: int,
    rows: int = 1000,
) -> float:
    """Mean absolute error of the neighbours' mean depth, so many rows of distances at a time."""
    others, other_depth = (descriptors, depth) if reference is None else _checked(*reference)
    neighbours = min(neighbours, len(others) - (reference is None))
    if neighbours < 1 or not len(depth):
        return math.nan
    errors = []
    for start in range(0, len(depth), rows):
        distances = feature_distances(descriptors[start : start + rows], others)
        if reference is None:
            own = np.arange(len(distances))
            distances[own, start + own] = np.inf
        nearest = np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
        errors.append(np.abs(other_depth[nearest].mean(axis=1) - depth[start : start + rows]))
    return float(np.concatenate(errors).mean())


def _checked(descriptors: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    descriptors, depth = (np.asarray(x, dtype=np.float64) for x in (descriptors, depth))
    if descriptors.ndim != 2 or depth.shape != descriptors.shape[:1]:
        raise ValueError(
            f"need descriptors (N, C) and depth (N,), not {descriptors.shape} and {depth.shape}"
        )
    if not (np.isfinite(descriptors).all() and np.isfinite(depth).all()):
        raise ValueError("descriptors and depth must be finite")
    return descriptors, depth


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
