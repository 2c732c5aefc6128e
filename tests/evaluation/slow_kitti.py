"""KITTI's evaluation rule by rule, slowly, with polygons from Shapely: what the fast one must equal.

Shares no code with `qiml.evaluation`; a frame is a list of dicts, one for each line of its file.
"""

import math
from collections import defaultdict

from shapely.geometry import Polygon

CLASSES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOUR = {"car": "van", "pedestrian": "person_sitting", "cyclist": None}
MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)


def image_overlap(det: dict, gt: dict, over_detection: bool) -> float:
    width = min(det["x2"], gt["x2"]) - max(det["x1"], gt["x1"])
    height = min(det["y2"], gt["y2"]) - max(det["y1"], gt["y1"])
    if width <= 0 or height <= 0:
        return 0.0
    area = [(box["x2"] - box["x1"]) * (box["y2"] - box["y1"]) for box in (det, gt)]
    shared = width * height
    return shared / (area[0] if over_detection else area[0] + area[1] - shared)


def footprint(box: dict) -> Polygon:
    cosine, sine = math.cos(box["rotation_y"]), math.sin(box["rotation_y"])
    corners = []
    for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        u, v = along * box["l"] / 2, across * box["w"] / 2
        corners.append((box["x"] + cosine * u + sine * v, box["z"] - sine * u + cosine * v))
    return Polygon(corners)


def ground_overlap(det: dict, gt: dict, over_detection: bool) -> float:
    shared = shared_ground(det, gt)
    if shared == 0:
        return 0.0
    area = det["w"] * det["l"], gt["w"] * gt["l"]
    return shared / (area[0] if over_detection else area[0] + area[1] - shared)


def volume_overlap(det: dict, gt: dict, over_detection: bool) -> float:
    height = min(det["y"], gt["y"]) - max(det["y"] - det["h"], gt["y"] - gt["h"])
    shared = shared_ground(det, gt) * max(height, 0.0)
    if shared == 0:
        return 0.0
    volume = [box["h"] * box["w"] * box["l"] for box in (det, gt)]
    return shared / (volume[0] if over_detection else volume[0] + volume[1] - shared)


def shared_ground(det: dict, gt: dict) -> float:
    if math.hypot(det["x"] - gt["x"], det["z"] - gt["z"]) > 1000:
        return 0.0
    return footprint(det).intersection(footprint(gt)).area


OVERLAP = {"2d": image_overlap, "bev": ground_overlap, "3d": volume_overlap}


def grade(name: str, level: int, truth: list[dict], found: list[dict]) -> tuple[list, list]:
    """0 counts, 1 is ignored, -1 takes no part."""
    gt_grade, det_grade = [], []
    for gt in truth:
        hard = (
            gt["occlusion"] > MAX_OCCLUSION[level]
            or gt["truncation"] > MAX_TRUNCATION[level]
            or gt["y2"] - gt["y1"] <= MIN_HEIGHT[level]
        )
        if gt["type"].lower() == name:
            gt_grade.append(1 if hard else 0)
        else:
            gt_grade.append(1 if gt["type"].lower() == NEIGHBOUR[name] else -1)
    for det in found:
        if int(abs(det["y1"] - det["y2"])) < MIN_HEIGHT[level]:
            det_grade.append(1)
        else:
            det_grade.append(0 if det["type"].lower() == name else -1)
    return gt_grade, det_grade


def scores_of_true(overlap, limit: float, gt_grade, det_grade, found) -> list[float]:
    taken, scores = set(), []
    for i, gt in enumerate(gt_grade):
        if gt == -1:
            continue
        best, best_score = None, -10_000_000.0
        for j, det in enumerate(found):
            if det_grade[j] == -1 or j in taken:
                continue
            if overlap[i][j] > limit and det["score"] > best_score:
                best, best_score = j, det["score"]
        if best is not None:
            taken.add(best)
            if gt == 0 and det_grade[best] == 0:
                scores.append(best_score)
    return scores


def count(overlap, region, limit, gt_grade, det_grade, truth, found, cutoff):
    """True positives, false positives, summed orientation similarity."""
    off = {j for j, det in enumerate(found) if det_grade[j] == -1 or det["score"] < cutoff}
    taken, true, similarity = set(), 0, 0.0
    for i, gt in enumerate(gt_grade):
        if gt == -1:
            continue
        best, best_overlap, best_is_ignored = None, 0.0, False
        for j in range(len(found)):
            if j in off or j in taken or not overlap[i][j] > limit:
                continue
            if det_grade[j] == 0 and (overlap[i][j] > best_overlap or best_is_ignored):
                best, best_overlap, best_is_ignored = j, overlap[i][j], False
            elif det_grade[j] == 1 and best is None:
                best, best_is_ignored = j, True
        if best is not None:
            taken.add(best)
            if gt == 0 and det_grade[best] == 0:
                true += 1
                similarity += (1 + math.cos(truth[i]["alpha"] - found[best]["alpha"])) / 2
    left = [j for j in range(len(found)) if j not in off | taken and det_grade[j] == 0]
    false = sum(1 for j in left if not any(shares[j] > limit for shares in region))
    return true, false, similarity


def cutoffs_of(scores: list[float], objects: int) -> list[float]:
    scores, recall, cutoffs = sorted(scores, reverse=True), 0.0, []
    for i, score in enumerate(scores):
        last = i == len(scores) - 1
        left = (i + 1) / objects
        right = left if last else (i + 2) / objects
        if right - recall < recall - left and not last:
            continue
        cutoffs.append(score)
        recall += 1 / 40
    return cutoffs


def average_precisions(values: list[float]) -> tuple[float, float]:
    """AP11 and AP40."""
    values = values + [0.0] * (41 - len(values))
    best = [max(values[i:]) for i in range(41)]
    return 100 * sum(best[::4]) / 11, 100 * sum(best[1:]) / 40


def evaluated(metric: str, det: dict) -> bool:
    if metric == "2d":
        return det["x1"] >= 0
    flat = det["x"] != -1000 and det["z"] != -1000 and det["w"] > 0 and det["l"] > 0
    return flat and (metric == "bev" or (det["y"] != -1000 and det["h"] > 0))


def evaluate(truth: list, found: list, limits: dict[str, dict[str, float]]) -> dict:
    """Results as class → AP11 or AP40 → metric → three numbers. `limits`: class → metric → IoU."""
    results: dict = defaultdict(lambda: {"AP11": {}, "AP40": {}})
    with_orientation = all(det["alpha"] != -10 for frame in found for det in frame)
    for metric, overlap_of in OVERLAP.items():
        overlaps, regions = [], []
        for gts, dets in zip(truth, found, strict=True):
            overlaps.append([[overlap_of(d, g, False) for d in dets] for g in gts])
            dont_care = [g for g in gts if g["type"].lower() == "dontcare"]
            regions.append([[overlap_of(d, g, True) for d in dets] for g in dont_care])
        for name in CLASSES:
            mine = [d for frame in found for d in frame if d["type"].lower() == name.lower()]
            if not any(evaluated(metric, det) for det in mine):
                continue
            for level in range(3):
                curves = _curves(
                    truth, found, overlaps, regions, name.lower(), level, limits[name][metric]
                )
                names = [metric, "aos"] if metric == "2d" and with_orientation else [metric]
                for key, curve in zip(names, curves, strict=False):
                    for average, value in zip(
                        ("AP11", "AP40"), average_precisions(curve), strict=True
                    ):
                        results[name][average].setdefault(key, []).append(value)
    return dict(results)


def _curves(truth, found, overlaps, regions, name, level, limit) -> tuple[list, list]:
    frames = []
    for gts, dets, overlap, region in zip(truth, found, overlaps, regions, strict=True):
        frames.append((overlap, region, *grade(name, level, gts, dets), gts, dets))
    objects = sum(gt_grade.count(0) for _, _, gt_grade, *_ in frames)
    scores = []
    for overlap, _, gt_grade, det_grade, _, dets in frames:
        scores += scores_of_true(overlap, limit, gt_grade, det_grade, dets)
    precision, orientation = [], []
    for cutoff in cutoffs_of(scores, objects):
        counts = [count(o, r, limit, g, d, gts, dets, cutoff) for o, r, g, d, gts, dets in frames]
        true, false, similarity = map(sum, zip(*counts, strict=True))
        positives = true + false
        precision.append(true / positives if positives else 0.0)
        orientation.append(similarity / positives if positives else 0.0)
    return precision, orientation
