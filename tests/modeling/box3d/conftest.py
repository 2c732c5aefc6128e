"""Labels as a head's perfect predictions: what the tests of several heads share."""

import numpy as np
import pytest
import torch

from qiml.data.kitti import load_kitti_format
from qiml.data.mapper import MonocularMapper
from qiml.losses.heading import NUM_BINS, encode_heading


@pytest.fixture
def read_samples():
    """Function (root, augmentation=probability, …) -> every frame's training sample, with all objects."""

    def read(root, crop_depth="ignore", **augmentation):
        never = {"flip": 0.0, "crop": 0.0, "crop_scale": 0.2, "crop_shift": 0.03}
        mapper = MonocularMapper(
            input_size=(320, 96),
            augmentation={**never, **augmentation},
            photometric=0.0,
            crop_depth=crop_depth,
            min_height=0,
            max_truncation=1,
            max_occlusion=3,
            min_depth=0,
            max_depth=100,
            category_ids=frozenset({0, 1, 2}),
        )
        frames = load_kitti_format(root, "train")
        return [mapper(frame, np.random.default_rng(n)) for n, frame in enumerate(frames)]

    return read


@pytest.fixture
def encode_regression():
    """Function (targets with cells, depth, dimensions and alpha; the rest in cells) -> {branch: values}."""

    def encode(targets, *, centres, sizes, projected_centres):
        bins, residuals = encode_heading(targets.alpha)
        heading = torch.zeros(len(targets), 2 * NUM_BINS)
        rows = torch.arange(len(targets))
        heading[rows, bins] = 50.0
        heading[rows, NUM_BINS + bins] = residuals
        raw_depth = -torch.log(targets.depth)  # sigmoid(raw) = 1 / (depth + 1)
        return {
            "offset_2d": centres - targets.cells,
            "size_2d": sizes,
            "depth": torch.stack([raw_depth, torch.full_like(raw_depth, -3.0)], dim=1),
            "offset_3d": projected_centres - targets.cells,
            "size_3d": targets.dimensions,
            "heading": heading,
        }

    return encode


@pytest.fixture
def at_cells():
    """Function (targets, {branch: values}) -> a stand-in for a head's `regress`.

    It says the values of the object in a cell, and zeros elsewhere.
    """

    def stand_in(targets, values):
        def regress(_predictions, image_index, cells):
            same = (image_index[:, None] == targets.image_index) & (
                cells[:, None] == targets.cells
            ).all(dim=2)
            return {name: same.float() @ value for name, value in values.items()}

        return regress

    return stand_in
