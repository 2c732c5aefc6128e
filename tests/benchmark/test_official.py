"""The reference that speed is measured against computes what QIML does."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from qiml.benchmark.official import OfficialStyle, literal_quasi_isometric_loss
from qiml.benchmark.scale import QUICK, draw_frames, made_up_batch, read_frames, switched
from qiml.benchmark.training import official_loader
from qiml.data.mapper import MonocularMapper
from qiml.losses.quasi_isometric import official_loss
from qiml.modeling.targets import paint_object_depth


def make_config(*overrides):
    return QUICK.load(*switched((True, True)), "SOLVER.AMP.ENABLED", False, *overrides)


def make_model(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Config without augmentation, four frames and two loaders' batches of these."""
    root = tmp_path_factory.mktemp("frames")
    dataset = draw_frames(root, QUICK)
    crop = ("INPUT.AUGMENTATION.CROP", 0.0, "MODEL.QUASI_ISOMETRIC.FORM", "official")
    return make_config("DATASETS.TRAIN", (dataset,), *crop), read_frames(dataset, QUICK.frames)


def test_losses_are_those_of_the_detector(drawn):
    cfg, frames = drawn
    mapper = MonocularMapper(cfg, is_train=True)
    batch = [mapper(frame, np.random.default_rng(i)) for i, frame in enumerate(frames)]
    assert sum(x["instances"].gt_has_3d.sum() for x in batch) > 4
    ours = make_model(cfg).train()(batch)
    official = OfficialStyle(make_model(cfg)).train()
    _, targets = official_loader(cfg, official.detector).batch(frames)
    detector = official.detector
    images = torch.stack([x["image"] for x in batch])
    losses = official.losses(
        *official((images - detector.pixel_mean) / detector.pixel_std), targets
    )
    assert losses.keys() == ours.keys()
    # The painted depth apart: the official code blends it at borders, on this small map nearly everywhere.
    for name in losses.keys() - {"loss_object_depth"}:
        torch.testing.assert_close(losses[name], ours[name], rtol=1e-4, atol=1e-5, msg=name)
    depth, expected = (x["loss_object_depth"].item() for x in (losses, ours))
    assert depth == pytest.approx(expected, rel=0.5)


def test_images_are_those_of_the_mapper_but_for_interpolation(drawn):
    cfg, frames = drawn
    detector = make_model(cfg)
    images, targets = official_loader(cfg, detector).batch(frames)
    mapper = MonocularMapper(cfg, is_train=True)
    ours = [mapper(frame, np.random.default_rng(i))["image"] for i, frame in enumerate(frames)]
    ours = (torch.stack(ours) - detector.pixel_mean) / detector.pixel_std
    assert (images - ours).abs().mean() < 0.05
    assert targets.mask.any()


def test_painted_depth_is_ours_inside_boxes(drawn):
    cfg, frames = drawn
    official = OfficialStyle(make_model(cfg))
    _, targets = official_loader(cfg, official.detector).batch(frames)
    objects = targets.objects()
    boxes = (objects.boxes2d * 4).round()
    size = tuple(targets.depth_map.shape[-2:])
    ours = paint_object_depth(boxes, objects.depth, objects.image_index, len(frames), size)
    both = (ours > 0) & (targets.depth_map > 0)
    assert both.any() and torch.equal(ours[both], targets.depth_map[both])


def test_detections_are_those_of_the_detector():
    cfg = make_config("MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 0.0)
    batch = made_up_batch(2, *cfg.INPUT.SIZE)
    with torch.inference_mode():
        ours = make_model(cfg).eval()(batch)
        official = OfficialStyle(make_model(cfg)).eval()
        detector = official.detector
        images = torch.stack([x["image"] for x in batch])
        found = official.detect((images - detector.pixel_mean) / detector.pixel_std, batch)
    for expected, instances in zip(ours, found, strict=True):
        expected = expected["instances"]
        assert len(instances) == len(expected) > 0
        torch.testing.assert_close(instances.scores, expected.scores)
        torch.testing.assert_close(instances.pred_boxes3d.tensor, expected.pred_boxes3d.tensor)


@pytest.mark.parametrize("objects", [0, 1, 2, 30])
def test_literal_loss_is_the_official_form(objects):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(objects, 8, generator=generator, dtype=torch.float64).requires_grad_()
    depth = 30 * torch.rand(objects, generator=generator, dtype=torch.float64)
    bounds = (1.5, 0.5, 10.0, 10.0)
    literal = literal_quasi_isometric_loss(features, depth, *bounds)
    ours = official_loss(features, depth, *bounds)
    torch.testing.assert_close(literal, ours)
    if objects == 30:
        assert ours > 0
        pairs = zip(*(torch.autograd.grad(x, features) for x in (literal, ours)), strict=True)
        for gradient, expected in pairs:
            torch.testing.assert_close(gradient, expected)
