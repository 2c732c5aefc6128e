"""Waymo's metric written as plainly as its rules read: every cut-off matched anew, by trying everything."""

import math
from functools import cache

from shapely import affinity, box

CUTOFFS = [i / 100 for i in range(101)]


def slow_precision_recall(gt, pred, threshold, level):
    """At each cut-off the precision, heading-weighted precision and recall of one frame with one type.

    Args:
        gt, pred: lists of rows (frame, x, y, z, l, w, h, heading, type, level or score) of one frame.
    """
    found = []
    alive, pairs = None, ()
    for cutoff in CUTOFFS:
        before, alive = alive, [row for row in pred if row[9] >= cutoff]
        if alive != before:
            pairs = heaviest_matching(gt, alive, threshold)
        true, false = len(pairs), len(alive) - len(pairs)
        heading = sum(heading_accuracy(gt[g], alive[d]) for g, d in pairs)
        matched = {g for g, _ in pairs}
        missed = sum(g not in matched and row[9] <= level for g, row in enumerate(gt))
        found.append(
            (
                true / (true + false) if true + false else 0.0,
                heading / (true + false) if true + false else 0.0,
                true / (true + missed) if true + missed else 0.0,
            )
        )
    return found


def heaviest_matching(gt, pred, threshold):
    """Pairs (object, detection) of the greatest total IoU, by trying all matchings."""
    weight = [[solid_iou(g, d) for d in pred] for g in gt]

    @cache
    def best(g, taken):
        if g == len(gt):
            return 0.0, ()
        options = [best(g + 1, taken)]
        for d in range(len(pred)):
            if not taken >> d & 1 and weight[g][d] >= threshold:
                value, pairs = best(g + 1, taken | 1 << d)
                options.append((value + round(weight[g][d], 6), ((g, d), *pairs)))
        return max(options, key=lambda option: option[0])

    return best(0, 0)[1]


def heading_accuracy(a, b):
    turn = abs(a[7] - b[7]) % (2 * math.pi)
    return 1 - min(turn, 2 * math.pi - turn) / math.pi


def solid_iou(a, b):
    shared = footprint(a).intersection(footprint(b)).area
    low = max(a[3] - a[6] / 2, b[3] - b[6] / 2)
    high = min(a[3] + a[6] / 2, b[3] + b[6] / 2)
    shared *= max(high - low, 0)
    return shared / (math.prod(a[4:7]) + math.prod(b[4:7]) - shared)


def footprint(row):
    shape = box(-row[4] / 2, -row[5] / 2, row[4] / 2, row[5] / 2)
    shape = affinity.rotate(shape, row[7], origin=(0, 0), use_radians=True)
    return affinity.translate(shape, row[1], row[2])
