"""GUPNet, and DEVIANT with its heads, equal the official code.

Outputs, second stage, losses, gradients, detections, task weights.
"""

import numpy as np
import pytest
import torch

from qiml.engine.task_learning import task_weights
from qiml.modeling.box3d.gupnet import REGRESSION_CHANNELS, ROI_CHANNELS, GUPNetHead
from qiml.modeling.official_weights import (
    convert_deviant,
    convert_gupnet,
    rename_deviant,
    rename_gupnet,
)
from tests.modeling.region_golden import (
    OFFICIAL_TERMS,
    check_detections,
    check_gradients,
    check_gradients_of_training,
    check_running_statistics,
    detect,
    losses,
    outputs_of,
    second_stage,
    second_stage_at_peaks,
    second_stage_at_targets,
    targets_of,
)

CODES = {
    "gupnet": (convert_gupnet, rename_gupnet, ()),
    "deviant": (
        convert_deviant,
        rename_deviant,
        ("MODEL.BACKBONE.NAME", "SteerableDLA", "MODEL.BACKBONE.STEERABLE.OFFICIAL", True),
    ),
}


@pytest.fixture(scope="module", params=CODES)
def code(request):
    return request.param


@pytest.fixture(scope="module")
def golden(golden_model, code):
    return golden_model(code)


@pytest.fixture(scope="module")
def rename(code):
    return CODES[code][1]


@pytest.fixture(scope="module")
def model(golden, official_detector, code):
    convert, _, changes = CODES[code]
    head = ("MODEL.BOX3D_HEAD.NAME", "GUPNetHead")
    return official_detector(convert(golden.state), *head, *changes)


@pytest.fixture(scope="module")
def features(model, golden):
    with torch.no_grad():
        return model.neck(model.backbone(golden.images))


@pytest.fixture(scope="module")
def targets(golden):
    return targets_of(golden)


@pytest.fixture
def raw(model):
    with outputs_of(model.box3d_head, ROI_CHANNELS) as outputs:
        yield outputs


# --- Outputs


def test_neck_output(features, golden, relative_error):
    assert relative_error(features, golden.arrays["eval/feat"]) < 1e-4


@pytest.mark.parametrize("name", ["heatmap", *REGRESSION_CHANNELS])
def test_raw_head_output(model, features, golden, relative_error, name):
    output = model.box3d_head.get_submodule(name)(features)
    assert relative_error(output, golden.arrays[f"eval/{name}"]) < 1e-4


def check_second_stage(golden, group, raw, objects, relative_error, mean_sizes):
    """Raw and final values of objects in the golden's order."""
    values = {f"raw_{name}": output for name, output in raw.items()}
    values |= {
        "depth": torch.stack([objects.depth, objects.depth_log_variance], dim=1),
        "offset_3d": objects.offset_3d,
        "size_3d": objects.dimensions - mean_sizes,
        "heading": objects.heading,
        "h3d_log_variance": objects.height_log_variance[:, None],
    }
    for name, value in values.items():
        assert relative_error(value, golden.arrays[f"{group}/{name}"]) < 1e-4, name


def test_second_stage_at_targets(model, features, golden, targets, raw, relative_error):
    objects, means = second_stage_at_targets(model, features, golden, targets, relative_error)
    check_second_stage(golden, "train_path", raw, objects, relative_error, means)


def test_second_stage_at_peaks(model, features, golden, raw, relative_error):
    peaks, objects, means = second_stage_at_peaks(model, features, golden, relative_error)
    flat = peaks.cells @ torch.tensor([1, features.shape[-1]])
    assert flat.tolist() == golden.arrays["roi/top_index"].flatten().tolist()
    assert relative_error(peaks.scores, golden.arrays["roi/top_heat"].flatten()) < 1e-4
    check_second_stage(golden, "roi", raw, objects, relative_error, means)


# --- Losses and gradients


@pytest.mark.parametrize("official, ours", OFFICIAL_TERMS.items())
def test_loss_term(model, features, golden, targets, official, ours):
    with torch.no_grad():
        value = losses(model.box3d_head, features, golden, targets)[ours].item()
    assert value == pytest.approx(float(golden.arrays[f"loss/{official}_loss"]), rel=1e-4)


def test_whole_loss_renders_the_golden_heatmap(model, features, golden, targets):
    head = model.box3d_head
    with torch.no_grad():
        total = sum(head.losses(head(features), targets).values())
    assert total.item() == pytest.approx(float(golden.arrays["loss/total"]), rel=1e-4)


def test_train_mode(model, golden, targets, train_mode, relative_error, rename):
    """Loss terms, outputs, and the running statistics after one pass."""
    with train_mode(model), torch.no_grad():
        head = model.box3d_head
        features = model.neck(model.backbone(golden.images))
        _, _, objects = second_stage(head, features, targets)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        terms = losses(head, features, golden, targets)
        maps = {name: head.get_submodule(name)(features) for name in REGRESSION_CHANNELS}
    for official, ours in OFFICIAL_TERMS.items():
        expected = float(golden.arrays[f"train_loss/{official}_loss"])
        assert terms[ours].item() == pytest.approx(expected, rel=1e-3), official
    outputs = {f"{name}_sub4": value[..., ::4, ::4] for name, value in maps.items()}
    outputs |= {
        "feat_sub4": features[..., ::4, ::4],
        "depth": torch.stack([objects.depth, objects.depth_log_variance], dim=1),
        "offset_3d": objects.offset_3d,
        "size_3d": objects.dimensions - head.mean_sizes[targets.classes],
        "heading": objects.heading,
    }
    for name, value in outputs.items():
        assert relative_error(value, golden.arrays[f"train/{name}"]) < 1e-3, name
    check_running_statistics(after, golden, rename)


def test_gradients(model, golden, targets, raw, monkeypatch, rename):
    check_gradients(model, golden, targets, raw, monkeypatch, rename, official_names={})


def test_gradients_as_training_takes_them(model, golden, targets, rename):
    check_gradients_of_training(model, golden, targets, rename)


# --- Detections


def test_detections(model, features, golden, monkeypatch):
    check_detections(golden, *detect(model, features, golden, monkeypatch))


def test_task_weights(golden):
    """The weights of epoch e follow from the losses before it."""
    terms = [OFFICIAL_TERMS[t.removesuffix("_loss")] for t in golden.arrays["task_weights/terms"]]
    graph = {term: GUPNetHead.task_graph[term] for term in terms}
    history = golden.tensor("task_weights/loss_history")
    for epoch, expected in enumerate(golden.arrays["task_weights/weights"]):
        weights = task_weights(graph, history[:epoch], num_epochs=140)
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
