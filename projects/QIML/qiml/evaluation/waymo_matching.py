"""Matchings of greatest total weight at every score cut-off at once.

The official metric matches anew for each cut-off among the detections that reach it (Hungarian
algorithm, `metrics/matcher.cc`). But few pairs overlap enough to be matched at all, so a frame falls
apart into small connected parts that do not depend on each other; and a part whose detections are
added in falling order of score passes through the matchings of all cut-offs. Each pair is then
matched on intervals of cut-offs, and the counts at all of them are sums over intervals.

Where several matchings weigh the same, the earlier detection or object is taken.
"""

from dataclasses import dataclass

import numpy as np

from qiml.evaluation.waymo_overlaps import Edges


@dataclass(frozen=True, eq=False)
class Intervals:
    """Where pairs are matched: edge[i] at the cut-offs begin[i] ≤ c < end[i]."""

    edge: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def match(edges: Edges, reach: np.ndarray) -> Intervals:
    """Match at all cut-offs.

    Args:
        edges: pairs that may be matched.
        reach: (E,) for each pair, how many cut-offs (the lowest) its detection reaches.
    """
    gt_degree, dt_degree = np.bincount(edges.gt), np.bincount(edges.dt)
    # The parts' usual shapes are done at once: one object with its detections, one detection with
    # its objects. (A lone pair is both.)
    by_gt = _all_within(edges.gt, dt_degree[edges.dt] == 1)
    by_dt = _all_within(edges.dt, gt_degree[edges.gt] == 1) & ~by_gt
    parts = [
        _best_so_far(np.flatnonzero(by_gt), edges.gt, edges.dt, edges.weight, reach),
        _best_so_far(np.flatnonzero(by_dt), edges.dt, edges.gt, edges.weight, reach),
        _others(np.flatnonzero(~by_gt & ~by_dt), edges, reach),
    ]
    edge, begin, end = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    lasting = begin < end
    return Intervals(edge[lasting], begin[lasting], end[lasting])


def _all_within(node: np.ndarray, fulfilled: np.ndarray) -> np.ndarray:
    """(E,) whether all edges of each edge's node fulfil something."""
    failing = np.bincount(node, weights=~fulfilled)
    return failing[node] == 0


def _best_so_far(
    index: np.ndarray, hub: np.ndarray, other: np.ndarray, weight: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One hub with several others: the heaviest edge among those that reach a cut-off."""
    rank = np.empty(len(index), dtype=np.int64)
    rank[np.lexsort((-other[index], weight[index]))] = np.arange(len(index))
    order = np.lexsort((-rank, -reach[index], hub[index]))
    index, rank, hub = index[order], rank[order], hub[index[order]]
    # A running maximum that starts anew at each hub.
    part = np.cumsum(np.diff(hub, prepend=-1) != 0)
    best = np.maximum.accumulate(rank + part * len(rank))
    record = np.diff(best, prepend=-1) > 0
    index, hub = index[record], hub[record]
    followed = np.diff(hub, append=-1) == 0
    begin = np.where(followed, np.append(reach[index], 0)[1:], 0)
    return index, begin, reach[index]


def _others(
    index: np.ndarray, edges: Edges, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of any other shape, one detection at a time."""
    neighbours: dict[int, dict[int, int]] = {}
    number: dict[tuple[int, int], int] = {}
    columns = (edges.dt[index], edges.gt[index], edges.weight[index], index)
    for dt, gt, weight, edge in zip(*map(np.ndarray.tolist, columns), strict=True):
        neighbours.setdefault(dt, {})[gt] = weight
        number[dt, gt] = edge
    reaches = dict(zip(edges.dt[index].tolist(), reach[index].tolist(), strict=True))
    matching = _GrowingMatching(neighbours)
    found: list[tuple[int, int, int]] = []
    open_since: dict[tuple[int, int], int] = {}
    for dt in sorted(reaches, key=lambda dt: (-reaches[dt], dt)):
        broken, made = matching.add(dt)
        for pair in broken:
            found.append((number[pair], reaches[dt], open_since.pop(pair)))
        open_since |= dict.fromkeys(made, reaches[dt])
    found += [(number[pair], 0, since) for pair, since in open_since.items()]
    columns = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


class _GrowingMatching:
    """A heaviest matching that detections are added to.

    Args:
        neighbours: detection → object → weight, positive.
    """

    def __init__(self, neighbours: dict[int, dict[int, int]]):
        self._neighbours = neighbours
        self._owner: dict[int, int] = {}

    def add(self, dt: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Add a detection along the alternating path that gains most.

        A path leads from the new detection to an object, on to the detection that owns it, and so on;
        it ends at a free object, or with a detection that loses its own. A heaviest matching without
        the new detection becomes one with it by one such path, or by none.

        Returns:
            The pairs (detection, object) that were broken, and those that were made.
        """
        gain, path = {dt: 0}, {dt: ()}
        best, best_path = 0, ()
        waiting = [dt]
        while waiting:
            seeker = waiting.pop(0)
            for gt, weight in self._neighbours[seeker].items():
                owner, reached = self._owner.get(gt), gain[seeker] + weight
                steps = (*path[seeker], (seeker, gt))
                if owner is not None:
                    reached -= self._neighbours[owner][gt]
                    if owner in gain and gain[owner] >= reached:
                        continue
                    gain[owner], path[owner] = reached, steps
                    waiting.append(owner)
                if reached > best:
                    best, best_path = reached, steps
        broken = [(self._owner[gt], gt) for _, gt in best_path if gt in self._owner]
        self._owner |= {gt: owner for owner, gt in best_path}
        return broken, list(best_path)
