import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import qiml.modeling  # noqa: F401  registers the detector
from qiml.data.mapper import MonocularMapper
from qiml.data.sources import Frame
from qiml.predictor import Predictor

PROJECTION = np.array([[180.0, 0, 160, 9], [0, 180, 48, 0.1], [0, 0, 1, 0.003]])


@pytest.fixture
def predictor(tiny_config):
    torch.manual_seed(0)
    cfg = tiny_config("MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 0.0, "MODEL.BOX3D_HEAD.TOP_K", 5)
    model = build_model(cfg).for_inference()
    return Predictor(model, MonocularMapper(cfg, is_train=False), ("Pedestrian", "Car", "Cyclist"))


def frame(width: int, height: int) -> Frame:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(str(width), "noise", noise)


def test_frames_of_different_sizes_are_detected_as_alone(predictor):
    frames, projections = [frame(320, 96), frame(200, 150)], [PROJECTION, 0.5 * PROJECTION]
    together = predictor(frames, projections)
    assert [len(objects) for objects in together] == [5, 5]
    for objects, *alone in zip(together, frames, projections, strict=True):
        (expected,) = predictor(*([each] for each in alone))
        assert objects.types.tolist() == expected.types.tolist()
        np.testing.assert_allclose(objects.values, expected.values, rtol=1e-3, atol=1e-3)


def test_images_in_memory_are_mapped_like_files(predictor, kitti_folder):
    from qiml.data.images import read_image
    from qiml.data.kitti import load_kitti_format

    item = load_kitti_format(kitti_folder(), "train")[0]
    image = Frame(item["image_id"], item["file_name"], read_image(item["file_name"]))
    mapped, expected = predictor._map(image, np.array(item["camera"])), predictor.mapper(item)
    assert mapped.keys() == expected.keys()
    for key in ("image", "camera", "affine"):
        torch.testing.assert_close(mapped[key], expected[key], rtol=0, atol=0)
