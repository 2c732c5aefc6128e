"""KITTI's matching of detections to objects and its precision–recall curve, vectorised.

The devkit walks through the objects of a frame in file order; each takes, among the detections
still free, the one it likes best. What it likes does not depend on the score cut-off, only what is
free does. So all frames and all 41 cut-offs are walked through at once: pairs that compete with no
other (most) match wherever the score reaches the cut-off; the rest are settled in steps of "the i-th
object of each frame tries its j-th choice".
"""

from dataclasses import dataclass

import numpy as np

from qiml.evaluation.kitti_overlaps import Pairs
from qiml.evaluation.kitti_rules import RECALL_POINTS

# The devkit's score of "no detection yet": lower scores cannot found a cut-off.
_NO_DETECTION = -10_000_000.0


@dataclass(frozen=True, eq=False)
class MatchingTask:
    """What one class, difficulty, metric and minimal overlap ask to be matched.

    Attributes:
        pairs: P pairs that overlap enough, of objects and detections that take part.
        gt_frame: (G,) frame of each object.
        gt_counts: (G,) mask of the objects that must be found; others in `pairs` are ignored.
        dt_counts: (D,) mask of the detections of the class that are not ignored.
        score: (D,) of the detections.
        excused: (D,) mask of the detections in DontCare regions: not false when left over.
    """

    pairs: Pairs
    gt_frame: np.ndarray
    gt_counts: np.ndarray
    dt_counts: np.ndarray
    score: np.ndarray
    excused: np.ndarray


def precision_curve(
    task: MatchingTask, alphas: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Precision at KITTI's 41 recall levels 0, 1/40, … 1, each the best at its level or beyond.

    Where nothing counts at a cut-off (the devkit: 0/0), precision is 0.

    Args:
        task: what to match.
        alphas: (G,) and (D,) observation angles of objects and detections. Given, a true positive
            counts (1 + cos Δalpha) / 2 instead of 1: orientation similarity instead of precision.

    Returns:
        (41,) float64, 0 to 1.
    """
    found = task.score[matched_by_score(task).dt]
    cutoffs = recall_cutoffs(found, np.count_nonzero(task.gt_counts))
    curve = np.zeros(RECALL_POINTS)
    true, false, similarity = _count(task, cutoffs, alphas)
    np.divide(similarity, true + false, out=curve[: len(cutoffs)], where=true + false > 0)
    return np.maximum.accumulate(curve[::-1])[::-1]


def average_precision(curves: np.ndarray) -> dict[str, list[float]]:
    """AP11 (levels 0, 0.1, … 1) and AP40 (levels 1/40, … 1) of (D, 41) curves, in per cent."""
    averages = {"AP11": curves[:, ::4], "AP40": curves[:, 1:]}
    return {name: (100 * points.mean(axis=1)).tolist() for name, points in averages.items()}


def matched_by_score(task: MatchingTask) -> Pairs:
    """The pairs that count when every object takes the free detection of highest score."""
    pairs = task.pairs[task.score[task.pairs.dt] > _NO_DETECTION]
    contested = _contested(pairs)
    rivals = pairs[contested]
    everything = np.ones((len(rivals.gt), 1), dtype=bool)
    matched = ~contested
    matched[contested] = _walk(rivals, task.score[rivals.dt], task.gt_frame, everything)[:, 0]
    return pairs[matched & task.gt_counts[pairs.gt] & task.dt_counts[pairs.dt]]


def recall_cutoffs(scores: np.ndarray, objects: int) -> np.ndarray:
    """The scores at which recall comes nearest to 0, 1/40, 2/40, …; at most 41, descending.

    Args:
        scores: (T,) of the true positives, in any order.
        objects: how many objects must be found.
    """
    scores = np.sort(scores)[::-1]
    cutoffs, recall, i = [], 0.0, 0
    while i < len(scores):
        last = len(scores) - 1
        # The first i whose successor is not nearer to the recall wanted. The estimate saves most of
        # the search; the comparison is the devkit's, rounding included.
        i = min(max(i, int(objects * recall - 3)), last)
        while i < last and (i + 2) / objects - recall < recall - (i + 1) / objects:
            i += 1
        cutoffs.append(scores[i])
        recall += 1.0 / (RECALL_POINTS - 1.0)
        i += 1
    return np.array(cutoffs)


def _count(
    task: MatchingTask, cutoffs: np.ndarray, alphas: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each cut-off, (T,) each: true positives, false positives, what the true ones count."""
    # An object that finds only ignored detections is neither found nor, as far as precision goes,
    # missed: they need no place here. (By score, above, they may outdo a detection that counts.)
    pairs = task.pairs[task.dt_counts[task.pairs.dt]]
    contested = _contested(pairs)
    lone, rivals = pairs[~contested], pairs[contested]
    first = np.zeros(len(task.score), dtype=int)  # number of the first cut-off that each reaches
    first[task.dt_counts] = np.searchsorted(-cutoffs, -task.score[task.dt_counts])
    reaches = first[rivals.dt][:, None] <= np.arange(len(cutoffs))
    matched = _walk(rivals, rivals.overlap, task.gt_frame, reaches)

    def reaching(dt: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        new = np.bincount(first[dt], weight, minlength=len(cutoffs) + 1)
        return np.cumsum(new[: len(cutoffs)])

    lone_true, rivals_true = lone[task.gt_counts[lone.gt]], task.gt_counts[rivals.gt]
    true = reaching(lone_true.dt) + matched[rivals_true].sum(axis=0)
    weighted = reaching(lone_true.dt, _similarity(lone_true, alphas))
    weighted = weighted + _similarity(rivals[rivals_true], alphas) @ matched[rivals_true]

    blamable = task.dt_counts & ~task.excused  # detections that are false unless matched
    false = reaching(np.flatnonzero(blamable)) - reaching(lone.dt[blamable[lone.dt]])
    false = false - matched[blamable[rivals.dt]].sum(axis=0)
    return true, false, weighted


def _similarity(pairs: Pairs, alphas: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    if alphas is None:
        return np.ones(len(pairs.gt))
    gt_alpha, dt_alpha = alphas
    return (1 + np.cos(gt_alpha[pairs.gt] - dt_alpha[pairs.dt])) / 2


def _contested(pairs: Pairs) -> np.ndarray:
    """(P,) mask of the pairs whose object or detection is in another pair too."""
    return (np.bincount(pairs.gt)[pairs.gt] > 1) | (np.bincount(pairs.dt)[pairs.dt] > 1)


def _walk(
    pairs: Pairs, preference: np.ndarray, gt_frame: np.ndarray, available: np.ndarray
) -> np.ndarray:
    """Let each object, in file order, take the free detection it prefers.

    Args:
        pairs: P pairs, ascending by object, then by detection.
        preference: (P,) of the object for the detection; of equal ones the first detection wins.
        gt_frame: (G,) frame of each object.
        available: (P, T) whether the detection of a pair takes part, for T cases.

    Returns:
        (P, T) the pairs matched.
    """
    matched = np.zeros_like(available)
    gt, gt_of = np.unique(pairs.gt, return_inverse=True)
    dt, dt_of = np.unique(pairs.dt, return_inverse=True)
    by_choice = np.lexsort((-preference, gt_of))
    turn = _position_in_run(gt_frame[gt])[gt_of[by_choice]]
    choice = _position_in_run(gt_of[by_choice])
    order = np.lexsort((choice, turn))
    changes = np.flatnonzero(np.diff(turn[order]) | np.diff(choice[order])) + 1
    searching = np.ones((len(gt), available.shape[1]), dtype=bool)
    free = np.ones((len(dt), available.shape[1]), dtype=bool)
    # All pairs of a step are of different frames, so none is in another's way.
    for step in np.split(by_choice[order], changes):
        g, d = gt_of[step], dt_of[step]
        take = available[step] & searching[g] & free[d]
        matched[step] = take
        searching[g] ^= take
        free[d] ^= take
    return matched


def _position_in_run(values: np.ndarray) -> np.ndarray:
    """How many equal values stand directly before each: [3, 3, 7, 7, 7] → [0, 1, 0, 1, 2]."""
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    return np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
