import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from qiml.errors import CheckpointError, ConfigError
from qiml.modeling.backbone import TimmBackbone
from qiml.modeling.official_weights import convert_deviant, rename_deviant
from qiml.modeling.steerable_conv import SteerableConv2d
from qiml.modeling.steerable_dla import SteerableDLA, steer_state

SCALES = (0.83, 0.9, 1.0)
THIN = {"channels": (4, 4, 8, 8, 16, 16)}


def thin(name="dla34", **options):
    torch.manual_seed(0)
    return SteerableDLA(name, scales=SCALES, options=THIN, **options)


def images(size=2, height=64, width=96):
    """Smooth, as photographs are."""
    noise = torch.randn(
        size, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(1)
    )
    return nn.functional.interpolate(noise, size=(height, width), mode="bicubic")


# --- The official code


@pytest.fixture(scope="module")
def golden(golden_model):
    return golden_model("deviant")


@pytest.fixture(scope="module")
def official():
    torch.manual_seed(0)
    return SteerableDLA("dla34", scales=SCALES, official=True).eval()


def assert_same_levels(golden, backbone, group):
    """Mean and root mean square of each channel of the four maps."""
    with torch.no_grad():
        maps = backbone(golden.images)
    assert list(maps) == ["stride4", "stride8", "stride16", "stride32"]
    for level, values in enumerate(maps.values(), start=2):
        for name, ours in (("mean", values), ("rms", values.square())):
            ours = ours.mean(dim=(0, 2, 3)).numpy()
            ours = np.sqrt(ours) if name == "rms" else ours
            expected = golden.arrays[f"{group}/level{level}/{name}"]
            assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max(), (level, name)


def test_maps_equal_the_official_ones(golden, official):
    converted = convert_deviant(
        {k: v for k, v in golden.state.items() if k.startswith("backbone.")}
    )
    official.load_state_dict({k.removeprefix("backbone."): v for k, v in converted.items()})
    assert_same_levels(golden, official, "backbone")


def test_official_conversion_of_ordinary_weights(golden, official, golden_weight):
    """With its losses: of the norms' weights and biases, and of all scales but the last."""
    spec = json.loads((Path(__file__).parents[1] / "golden/models/deviant.json").read_text())
    rule = {**spec, "GAIN": 1.0, "overrides": {}}
    ordinary = {
        f"body.{name}": torch.tensor(golden_weight(name, shape, rule))
        for name, shape, _ in spec["plain_backbone_state"]
        if rename_deviant(f"backbone.{name}") is not None
    }
    official.load_state_dict(steer_state(ordinary, official))
    state = official.state_dict()
    names, expected = (golden.arrays[f"steerable_init/{x}"] for x in ("names", "norm_sum"))
    for name, (norm, total) in zip(names, expected, strict=True):
        if (ours := rename_deviant(f"backbone.{name}")) is not None:
            value = state.pop(ours.removeprefix("backbone.")).double()
            assert value.norm().item() == pytest.approx(norm, rel=1e-5), name
            assert value.sum().item() == pytest.approx(total, abs=1e-5 * norm), name
    assert all(name.endswith((".basis", ".num_batches_tracked")) for name in state)
    assert_same_levels(golden, official, "steerable_init")


# --- Its making


@pytest.mark.parametrize("name", ["dla34", "dla46_c"])
def test_names_strides_and_channels_are_those_of_the_ordinary_one(name):
    ordinary, steerable = TimmBackbone(name, options=THIN), thin(name).eval()
    assert steerable.output_shape() == ordinary.output_shape()
    assert steerable.size_divisibility == 32
    names = {key for key in steerable.state_dict() if not key.endswith(".basis")}
    assert names == ordinary.state_dict().keys()
    count = sum(parameter.numel() for parameter in ordinary.parameters())
    assert sum(parameter.numel() for parameter in steerable.parameters()) == count
    with torch.no_grad():
        maps = steerable(images())
    for key, shape in steerable.output_shape().items():
        assert maps[key].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize("name", ["dla34", "dla46_c", "dla102"])
@pytest.mark.parametrize("training", [True, False])
def test_without_steering_it_is_the_ordinary_network(name, training):
    """Kernels of all scales set to the ordinary one."""
    torch.manual_seed(0)
    ordinary, steerable = TimmBackbone(name, options=THIN).double(), thin(name).double()
    state = ordinary.state_dict()
    for key, layer in steerable.named_modules():
        if isinstance(layer, SteerableConv2d):
            pixels = torch.zeros_like(layer.basis)
            inside = slice(1, 1 + layer.size)
            pixels[:, :, inside, inside] = torch.eye(layer.size**2).unflatten(1, (-1, layer.size))[
                :, None
            ]
            state |= {f"{key}.basis": pixels, f"{key}.weight": state[f"{key}.weight"].flatten(2)}
    steerable.load_state_dict(state)
    with torch.no_grad():
        expected = ordinary.train(training)(images().double())
        for key, value in steerable.train(training)(images().double()).items():
            torch.testing.assert_close(value, expected[key])


def test_scale_by_scale_is_all_scales_at_once():
    """What the first layers do in evaluation, and what they do in training."""
    backbone = thin().eval()
    with torch.no_grad():
        expected = backbone(images())
        backbone.training = True  # not its norms
        for key, value in backbone(images()).items():
            torch.testing.assert_close(value, expected[key])


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_in_channels_last(training):
    backbone = thin().train(training).to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(x)
    for key, value in maps.items():
        assert value.dtype == torch.bfloat16
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert (value - expected[key]).norm() < 0.1 * expected[key].norm()
    sum(value.float().sum() for value in maps.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in backbone.parameters())


# --- Ordinary weights


@pytest.fixture
def ordinary():
    """A network whose norms have learnt something."""
    torch.manual_seed(0)
    backbone = TimmBackbone("dla34", options=THIN).train()
    with torch.no_grad():
        for layer in backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(std=0.2)
                layer.momentum = None
        for _ in range(3):
            backbone(images(8))
    return backbone.eval()


def errors(ordinary, steerable):
    """Of the maps of a network steered from an ordinary one."""
    with torch.no_grad():
        pairs = zip(steerable.eval()(images()).values(), ordinary(images()).values(), strict=True)
        return [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs]


def test_steered_network_sees_what_the_ordinary_one_saw(ordinary, tmp_path):
    """Roughly, which is enough to go on from; with the official conversion maps explode."""
    torch.save(ordinary.body.state_dict(), tmp_path / "dla34.pth")
    ours, official = (
        errors(ordinary, thin(weights=str(tmp_path / "dla34.pth"), official=official))
        for official in (False, True)
    )
    assert max(ours) < 1.1 and min(official) > 10, (ours, official)


def test_norms_and_small_kernels_stay(ordinary):
    state = ordinary.state_dict()
    steered = steer_state(state, thin())
    for name, value in steered.items():
        if name in state and state[name].shape[2:].numel() == 1:
            assert torch.equal(value, state[name]), name
    assert steered.keys() == thin().state_dict().keys()


def test_part_of_a_state():
    """Entries of other parts stay, and missing ones are not made up."""
    kernel, other = torch.randn(4, 4, 3, 3), torch.randn(2)
    steered = steer_state({"body.level0.0.weight": kernel, "head.bias": other}, thin())
    assert steered.keys() == {"body.level0.0.weight", "body.level0.0.basis", "head.bias"}
    assert steered["body.level0.0.weight"].shape == (4, 4, 9) and steered["head.bias"] is other


def test_weights_of_the_whole_model_of_timm(tmp_path):
    """Classifier and all, as one would download them."""
    state = timm.create_model("dla34", **THIN).state_dict()
    torch.save(state, tmp_path / "dla34.pth")
    backbone = thin(weights=str(tmp_path / "dla34.pth"))
    convolution = backbone.body["level0"][0]
    torch.testing.assert_close(convolution.weight, convolution.fit(state["level0.0.weight"]))
    root = backbone.body["level2"].root.conv.weight
    assert torch.equal(root, state["level2.root.conv.weight"])


# --- Wrong input


def test_other_networks():
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.TIMM_NAME: found 'resnet18'"):
        SteerableDLA("resnet18", scales=SCALES)


@pytest.mark.parametrize("scales", [(), (1.0, 0.9), (0.9, 0.9), (-1.0, 1.0)])
def test_wrong_scales(scales):
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.STEERABLE\.SCALES: found"):
        SteerableDLA("dla34", scales=scales)


def test_steerable_weights_as_ordinary_ones(tmp_path):
    torch.save(thin().body.state_dict(), tmp_path / "steerable.pth")
    with pytest.raises(CheckpointError, match=r"steerable\.pth: found \d+ missing or differently"):
        thin(weights=str(tmp_path / "steerable.pth"))
