import math
from itertools import combinations

import numpy as np
import pytest

from qiml.evaluation.manifold import (
    embed,
    feature_distances,
    geodesic_distances,
    measure,
    spearman,
    subsample,
)
from qiml.losses.quasi_isometric import LOG_DEPTH_SCALE


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def line(depth, channels=8):
    """Descriptors that are depth times a unit vector."""
    return depth[:, None] * np.full(channels, channels**-0.5)


def arc(depth, radius=20.0):
    """Descriptors along nine tenths of a circle: the ends lie near each other."""
    angle = 1.8 * math.pi * depth / depth.max()
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_descriptors_that_are_depth(rng):
    depth = rng.uniform(2, 60, 300)
    found = measure(line(depth), depth)
    assert (found["inside"], found["too_close"], found["too_far"]) == (1, 0, 0)
    for name in ("spearman_local", "pearson_local", "spearman_all", "geodesic_spearman"):
        assert found[name] == pytest.approx(1)
    assert found["geodesic_ratio"] == pytest.approx(1) and found["connected"] == 1
    assert found["knn_depth_error"] < 1


def test_geodesics_follow_a_bent_manifold(rng):
    depth = np.sort(rng.uniform(2, 60, 300))
    found = measure(arc(depth), depth)
    assert found["geodesic_spearman"] > 0.99 > 0.9 > found["spearman_all"]
    assert found["geodesic_ratio"] > 1.3
    flat = embed(geodesic_distances(feature_distances(arc(depth))))
    assert abs(spearman(flat[:, 0], depth)) > 0.999
    assert np.ptp(flat[:, 0]) > 5 * np.ptp(flat[:, 1])


def test_random_descriptors_do_not_follow_depth(rng):
    found = measure(rng.normal(size=(300, 16)), rng.uniform(2, 60, 300))
    for name in ("spearman_local", "pearson_local", "spearman_all", "geodesic_spearman"):
        assert abs(found[name]) < 0.05, name
    assert found["knn_depth_error"] > 10


@pytest.mark.parametrize("space", ["metric", "log"])
def test_shares_of_local_pairs(rng, space):
    """Against a loop over pairs, some of the same depth and some exactly ε apart."""
    depth = rng.integers(2, 30, 60).astype(float)
    descriptors = 4 * rng.normal(size=(60, 3))
    k, b, epsilon = 1.3, 0.7, 6.0
    counts = {"inside": 0, "too_close": 0, "too_far": 0}
    position = depth if space == "metric" else LOG_DEPTH_SCALE * np.log(depth)
    for i, j in combinations(range(60), 2):
        gap = abs(position[i] - position[j])
        if 0 < gap <= epsilon:
            distance = math.dist(descriptors[i], descriptors[j])
            close, far = distance < gap / k - b, distance > k * gap + b
            counts["too_close" if close else "too_far" if far else "inside"] += 1
    assert min(counts.values()) > 0
    found = measure(descriptors, depth, k=k, b=b, epsilon=epsilon, depth_space=space)
    assert found["local_pairs"] == sum(counts.values())
    for name, count in counts.items():
        assert found[name] == pytest.approx(count / sum(counts.values()))


def test_spearman_with_ties(rng):
    a, b = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    ranks = [
        [sum(y < x for y in values) + (sum(y == x for y in values) + 1) / 2 for x in values]
        for values in (a, b)
    ]
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(np.array([1, 2, 3]), np.array([1, 10, 100])) == pytest.approx(1)
    assert math.isnan(spearman(np.ones(3), np.arange(3)))


def test_shortest_paths(rng):
    """Against Floyd and Warshall by loops; two clusters that nothing joins."""
    points = rng.normal(size=(24, 3)) + 100 * (np.arange(24) % 2)[:, None]
    distances = feature_distances(points)
    expected = np.full((24, 24), np.inf)
    for i in range(24):
        expected[i, i] = 0
        others = [j for j in range(24) if j != i]
        for j in sorted(others, key=lambda j: distances[i, j])[:3]:
            expected[i, j] = expected[j, i] = distances[i, j]
    for via in range(24):
        for i in range(24):
            for j in range(24):
                expected[i, j] = min(expected[i, j], expected[i, via] + expected[via, j])
    found = geodesic_distances(distances, neighbours=3)
    np.testing.assert_allclose(found, expected)
    assert np.isinf(found[0, 1]) and np.isfinite(found).sum() > 24


def test_parts_that_nothing_connects(rng):
    depth = rng.uniform(2, 60, 50)
    descriptors = line(depth) + 1e4 * (np.arange(50) < 20)[:, None]
    found = measure(descriptors, depth)
    assert found["connected"] == pytest.approx((20 * 19 + 30 * 29) / (50 * 49))
    assert found["geodesic_spearman"] == pytest.approx(1) and found["spearman_all"] < 0.5
    flat = embed(geodesic_distances(feature_distances(descriptors)))
    assert np.isnan(flat[:20]).all() and np.isfinite(flat[20:]).all()


def test_embedding_keeps_the_distances_of_a_plane(rng):
    points = rng.uniform(0, [4, 1], (40, 2))
    distances = feature_distances(points)
    np.testing.assert_allclose(feature_distances(embed(distances)), distances, atol=1e-9)


def test_depth_of_the_nearest_neighbours():
    descriptors, depth = np.array([[0.0], [1], [2.1], [50]]), np.array([10.0, 11, 13, 40])
    alone = measure(descriptors, depth, neighbours=1)["knn_depth_error"]
    assert alone == pytest.approx((1 + 1 + 2 + 27) / 4)
    reference = np.array([[0.4], [1.9], [2.2]]), np.array([10.0, 12, 14])
    found = measure(descriptors, depth, neighbours=2, reference=reference)["knn_depth_error"]
    assert found == pytest.approx((1 + 0 + 0 + 27) / 4)
    # More than there are: the mean of all.
    found = measure(descriptors, depth, neighbours=9, reference=reference)["knn_depth_error"]
    assert found == pytest.approx((2 + 1 + 1 + 28) / 4)


def test_many_objects_are_thinned_but_all_predicted(rng):
    depth = rng.uniform(2, 60, 2500)
    found = measure(line(depth), depth, max_objects=100)
    assert found["objects"] == 2500 and 0 < found["local_pairs"] < 100 * 99 / 2
    assert (
        found["knn_depth_error"] < 0.2 < measure(line(depth[:100]), depth[:100])["knn_depth_error"]
    )
    chosen = subsample(2500, 100)
    assert len(np.unique(chosen)) == 100 and np.array_equal(chosen, subsample(2500, 100))
    assert np.array_equal(subsample(3, 3), [0, 1, 2])


def test_depth_is_predicted_block_by_block(rng):
    """More objects than one block of distances holds, against all distances at once."""
    depth = rng.uniform(2, 60, 1100)
    descriptors = rng.normal(size=(1100, 2)) + depth[:, None]
    distances = feature_distances(descriptors)
    np.fill_diagonal(distances, np.inf)
    expected = np.abs(depth[distances.argsort(axis=1)[:, :10]].mean(axis=1) - depth).mean()
    assert measure(descriptors, depth, max_objects=10)["knn_depth_error"] == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_objects(count):
    depth = np.array([10.0, 12])[:count]
    found = measure(line(depth), depth)
    assert found["objects"] == count
    known = {name for name, value in found.items() if not math.isnan(value)}
    assert not any(map(math.isinf, found.values()))
    shares = {"inside", "too_close", "too_far", "connected", "geodesic_ratio", "knn_depth_error"}
    assert known == {"objects", "local_pairs"} | (shares if count == 2 else set())
    assert embed(geodesic_distances(feature_distances(line(depth)))).shape == (count, 2)


def test_descriptors_all_the_same():
    found = measure(np.ones((30, 4)), np.linspace(2, 60, 30))
    assert math.isnan(found["spearman_all"]) and math.isnan(found["geodesic_ratio"])
    assert found["too_far"] == 0 and found["too_close"] > 0.9


def test_wrong_input():
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        measure(np.zeros((3, 2)), np.ones(2))
    with pytest.raises(ValueError, match="finite"):
        measure(np.full((2, 2), np.nan), np.ones(2))
    with pytest.raises(ValueError, match="depth_space"):
        measure(np.zeros((2, 2)), np.ones(2), depth_space="inverse")
