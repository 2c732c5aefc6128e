import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qiml.modeling.decode import boxes_of_the_original, find_peaks, inverse_sigmoid_depth


def heatmap(*spots, shape=(2, 3, 8, 10), background=-9.0):
    """Logits with (image, class, y, x, logit) spots."""
    logits = torch.full(shape, background)
    for image, category, y, x, logit in spots:
        logits[image, category, y, x] = logit
    return logits


def test_peaks_best_first_with_their_places():
    logits = heatmap((0, 1, 2, 3, 1.0), (0, 2, 7, 9, 3.0), (0, 0, 0, 0, 2.0), (1, 1, 5, 6, 0.5))
    peaks = find_peaks(logits, top_k=3)
    assert peaks.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert peaks.cells[:4].tolist() == [[9, 7], [0, 0], [3, 2], [6, 5]]
    assert peaks.classes[:4].tolist() == [2, 0, 1, 1]
    expected = torch.tensor([3.0, 2.0, 1.0, 0.5]).sigmoid()
    torch.testing.assert_close(peaks.scores[:4], expected)
    assert (peaks.scores[4:] < 1e-3).all()  # image 1 has one peak


def test_neighbours_of_a_peak_are_none():
    logits = heatmap((0, 0, 4, 4, 3.0), (0, 0, 5, 5, 2.9), (0, 0, 4, 6, 2.8), (0, 1, 4, 5, 2.0))
    peaks = find_peaks(logits[:1], top_k=3)
    # (5, 5) touches the peak; (6, 4) touches (5, 5); class 1 is a map of its own.
    assert peaks.cells[:2].tolist() == [[4, 4], [5, 4]]
    assert peaks.classes[:2].tolist() == [0, 1]
    assert peaks.scores[2] < 1e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_of_equal_neighbours_the_first_is_the_peak(memory_format):
    """They are one object; to bfloat16 numbers are equal that differ by less than half a per cent."""
    spots = [(0, 0, 4, 4, 3.0), (0, 0, 4, 5, 3.003), (0, 0, 5, 4, 2.998), (0, 1, 4, 5, 2.0)]
    logits = heatmap(*spots)[:1].bfloat16().contiguous(memory_format=memory_format)
    peaks = find_peaks(logits, top_k=3)
    assert peaks.cells[:2].tolist() == [[4, 4], [5, 4]]
    assert peaks.classes[:2].tolist() == [0, 1]
    assert peaks.scores[2] < 1e-3


def test_peaks_at_borders_and_corners():
    corners = [(0, 0), (0, 9), (7, 0), (7, 9)]
    spots = [(0, 0, y, x, 4.0 - n) for n, (y, x) in enumerate(corners)]
    peaks = find_peaks(heatmap(*spots)[:1], top_k=4)
    assert peaks.cells.tolist() == [[x, y] for y, x in corners]


def test_more_peaks_wanted_than_cells():
    peaks = find_peaks(heatmap(shape=(2, 1, 2, 3)), top_k=50)
    assert len(peaks.scores) == 12
    assert peaks.image_index.tolist() == [0] * 6 + [1] * 6


def test_scores_are_clamped_as_in_the_official_code():
    peaks = find_peaks(heatmap((0, 0, 1, 1, 50.0), shape=(1, 1, 3, 3)), top_k=1)
    assert peaks.scores.item() == pytest.approx(1 - 1e-4)


def test_half_precision_is_raised():
    peaks = find_peaks(heatmap((0, 0, 1, 1, 1.0)).bfloat16(), top_k=1)
    assert peaks.scores.dtype == torch.float32
    assert inverse_sigmoid_depth(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


@given(depth=st.floats(1, 100))
def test_inverse_sigmoid_depth(depth):
    """Inverts sigmoid(x) = 1 / (z + 1): the raw number is −ln z."""
    raw = -torch.tensor([depth], dtype=torch.float64).log()
    assert inverse_sigmoid_depth(raw).item() == pytest.approx(depth, rel=2e-4)


def test_inverse_sigmoid_depth_is_finite_and_falls():
    raw = torch.tensor([-200.0, -20, -3, 0, 3, 20, 200])
    depth = inverse_sigmoid_depth(raw)
    assert depth.isfinite().all()
    assert (depth.diff() <= 0).all()
    assert depth[3] == pytest.approx(1, abs=1e-5)
    assert depth[0] == pytest.approx(1e6, rel=1e-4)


def test_peaks_are_selected_together():
    peaks = find_peaks(heatmap((0, 1, 2, 3, 1.0), (1, 2, 7, 9, 3.0)), top_k=2)
    kept = peaks[peaks.scores > 0.5]
    assert kept.image_index.tolist() == [0, 1]
    assert kept.cells.tolist() == [[3, 2], [9, 7]]
    assert kept.classes.tolist() == [1, 2] and len(kept.scores) == 2


@pytest.mark.parametrize("autocast", [False, True])
def test_boxes_come_back_to_the_original(autocast):
    """Also inside mixed precision, whose products know three digits."""
    affines = torch.tensor([[[0.5, 0, -3], [0, 0.5, 7]], [[2.0, 0, 1], [0, 2.0, -5]]])
    original = torch.tensor([[1003.25, 20.5, 1100.75, 99.25], [3.0, 4.0, 211.0, 301.0]])
    index = torch.tensor([1, 0])
    corners = original.view(2, 2, 2) * affines[index][:, None, [0, 1], [0, 1]]
    corners = corners + affines[index][:, None, :, 2]
    centres, sizes = corners.mean(dim=1), corners[:, 1] - corners[:, 0]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        boxes = boxes_of_the_original(centres, sizes, index, affines)
    torch.testing.assert_close(boxes, original, rtol=0, atol=1e-3)
