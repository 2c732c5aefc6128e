import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from qiml.modeling.steerable_conv import (
    SteerableConv2d,
    fit_answers,
    fit_middle,
    hermite_basis,
    lift,
    max_over_scales,
)

SCALES = (0.83, 0.9, 1.0)
GOLDEN = Path(__file__).parents[1] / "golden" / "models" / "deviant.npz"


@pytest.fixture(scope="module")
def golden():
    """Of the official code."""
    return dict(np.load(GOLDEN))


def make(size=3, channels=(3, 4), **options):
    torch.manual_seed(0)
    return SteerableConv2d(*channels, size, scales=SCALES, **options)


# --- Kernels


@pytest.mark.parametrize("size", [3, 7])
def test_official_basis(golden, size):
    """Whose smaller 9×9 kernels are 7×7 ones with a border of zeros."""
    expected = golden[f"kept/basis_{size + 2}x{size + 2}"]
    basis = hermite_basis(size + 2, SCALES, size, official=True).numpy()
    assert basis.shape == expected.shape == (size**2, 3, size + 2, size + 2)
    np.testing.assert_allclose(basis, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("size", [3, 7])
def test_official_fit(golden, size):
    """To each scale; the official code keeps that to the last."""
    kernel = torch.tensor(golden[f"steerable/kernel_{size}x{size}"])
    basis = hermite_basis(size + 2, SCALES, size, official=True)
    for index, expected in enumerate(golden[f"steerable/weights_from_{size}x{size}"]):
        weights = fit_middle(kernel, basis[:, : index + 1])
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [3, 7])
def test_functions_have_norm_one_and_steps_mean_the_same_in_all(size):
    basis = hermite_basis(size + 2, SCALES, size)
    torch.testing.assert_close(basis[:, 0].norm(dim=(1, 2)), torch.ones(size**2))
    official = hermite_basis(size + 2, SCALES, size, official=True)
    condition, official_condition = (torch.linalg.cond(b.flatten(1)) for b in (basis, official))
    assert condition < official_condition * (1 if size == 3 else 0.1)


def test_kernels_of_large_size_are_the_functions_themselves():
    """Nothing to make up for: the border is far away, and the Gaussian is wide for the pixels."""
    basis = hermite_basis(25, (1.5,), 3)
    expected = hermite_basis(25, (1.5,), 3, official=True)
    expected /= expected.norm(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(basis, expected, rtol=0, atol=1e-3)


def image(step, size=72, channels=3):
    """(1, C, size, size) of a sum of waves of 6 to 36 pixels, seen at `step` pixels a pixel."""
    line = (torch.arange(size) - (size - 1) / 2) * step
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(channels, 30, 2, generator=generator)
    lengths = 6 + 30 * torch.rand(channels, 30, 1, generator=generator)
    waves *= 2 * math.pi / lengths / waves.norm(dim=2, keepdim=True)
    phases = 2 * math.pi * torch.rand(channels, 30, 1, 1, generator=generator)
    return (torch.einsum("hwc,knc->knhw", grid, waves) + phases).cos().sum(dim=1)[None]


def magnified(answers, factor):
    """The map of the image at 1 as that of the image at 1 / factor should be, but for a border."""
    line = torch.linspace(-1, 1, answers.shape[-1]) / factor
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)[None]
    return F.grid_sample(answers, grid, mode="bicubic", align_corners=True)


def equivariance_errors(conv, smaller, larger):
    """Of the magnified image's answers to the kernel of the scale as much larger, and to the same one."""
    factor = SCALES[larger] / SCALES[smaller]
    with torch.no_grad():
        before, after = (conv(image(step)) for step in (1.0, 1 / factor))
    expected = magnified(before[smaller : smaller + 1], factor)[..., 10:-10, 10:-10]
    errors = [after[i : i + 1, :, 10:-10, 10:-10] - expected for i in (larger, smaller)]
    return [(error.norm() / expected.norm()).item() for error in errors]


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize(("smaller", "larger"), [(0, 1), (1, 2), (0, 2)])
def test_magnifying_an_image_shifts_the_answers_along_the_scales(size, smaller, larger):
    """Within 5 %, and 2 % for 3×3 weights; a kernel that is not steered is off by twice as much and more."""
    steered, same = equivariance_errors(make(size, lifting=True), smaller, larger)
    assert steered < {3: 0.03, 7: 0.05}[size]
    assert steered < 0.6 * same


def test_official_kernels_are_no_better_than_unsteered_ones():
    """Why ours are the default: cut off at two pixels, they do not shift."""
    steered, same = equivariance_errors(make(lifting=True, official=True), 0, 2)
    ours, _ = equivariance_errors(make(lifting=True), 0, 2)
    assert steered > same and ours < 0.5 * steered


@pytest.mark.parametrize(("size", "better"), [(3, 4), (7, 1)])
def test_fitted_kernels_answer_like_ordinary_ones(size, better):
    """On all scales, and better than the official fit."""
    torch.manual_seed(0)
    kernel = F.avg_pool2d(torch.randn(4, 3, size + 2, size + 2), 3, stride=1)
    x = image(1.0)
    expected = F.conv2d(x, kernel, padding=size // 2)
    errors = []
    for official in (False, True):
        conv = make(size, lifting=True, official=official)
        with torch.no_grad():
            conv.weight.copy_(conv.fit(kernel))
            answers = (conv(x) - expected)[..., 10:-10, 10:-10]
        errors.append(answers.flatten(1).norm(dim=1).max() / expected.norm())
    assert errors[0] < 0.25 and errors[0] * better < errors[1], errors


def test_fit_finds_the_weights_of_a_steerable_kernel():
    basis = hermite_basis(5, SCALES, 3)
    weights = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    kernel = torch.einsum("oif,fyx->oiyx", weights, basis[:, 0])
    torch.testing.assert_close(fit_answers(kernel, basis), weights, rtol=1e-4, atol=1e-4)


# --- Convolution


@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_every_scale_by_its_kernel(lifting, memory_format, stride, groups):
    """In the layout of the input."""
    conv = make(channels=(4, 6), stride=stride, groups=groups, lifting=lifting)
    x = torch.randn(2 if lifting else 6, 4, 9, 12).contiguous(memory_format=memory_format)
    answers = conv(x)
    assert answers.is_contiguous(memory_format=memory_format)
    maps = lift(x, 3) if lifting else x
    for index, functions in enumerate(conv.basis.unbind(1)):
        kernel = torch.einsum("oif,fyx->oiyx", conv.weight, functions)
        part = slice(2 * index, 2 * index + 2)
        expected = F.conv2d(maps[part], kernel, stride=stride, padding=2, groups=groups)
        torch.testing.assert_close(answers[part], expected)


def test_gradients():
    conv = make(channels=(2, 2)).double()
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = conv.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight: functional_call(conv, {"weight": weight}, x), (x, weight)
    )


def test_starts_as_an_ordinary_convolution_does():
    """With answers as large as those of Kaiming's initialisation."""
    x = image(1.0, channels=16)
    conv = make(channels=(16, 64), lifting=True)
    ordinary = torch.nn.Conv2d(16, 64, 3, padding=1, bias=False)
    torch.nn.init.kaiming_normal_(ordinary.weight, mode="fan_out", nonlinearity="relu")
    with torch.no_grad():
        assert conv(x).std() == pytest.approx(ordinary(x).std().item(), rel=0.3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_max_over_scales(memory_format):
    x = torch.randn(6, 4, 5, 7).contiguous(memory_format=memory_format)
    assert torch.equal(max_over_scales(x, 3), x.unflatten(0, (3, 2)).amax(dim=0))
    assert max_over_scales(x, 3).is_contiguous(memory_format=memory_format)
    lifted = lift(x, 3)
    assert lifted.is_contiguous(memory_format=memory_format)
    assert torch.equal(lifted.unflatten(0, (3, 6)), x.expand(3, *x.shape))


def test_only_the_largest_scale_learns():
    """Of several as large, the first: as `torch.max` along a dimension, in the official code."""
    x = torch.randint(0, 3, (6, 4, 5, 6)).float().to(memory_format=torch.channels_last)
    x.requires_grad_()
    grad = torch.randn(2, 4, 5, 6)
    of_x, of_max = (
        torch.autograd.grad(y, x, grad)[0]
        for y in (max_over_scales(x, 3), x.unflatten(0, (3, 2)).max(dim=0).values)
    )
    assert torch.equal(of_x, of_max)
    assert of_x.is_contiguous(memory_format=torch.channels_last)


# --- Kept kernels


@pytest.fixture
def conv(monkeypatch):
    """That counts how often it composes its kernels."""
    conv = make().eval()
    compose, conv.composed = conv._compose, 0

    def counted():
        conv.composed += 1
        return compose()

    monkeypatch.setattr(conv, "_compose", counted)
    return conv


def answers(conv):
    with torch.no_grad():
        return conv(torch.ones(3, 3, 6, 6))


def test_kept_while_nothing_changes(conv):
    first = answers(conv)
    assert torch.equal(first, answers(conv)) and conv.composed == 1
    with torch.inference_mode():
        conv(torch.ones(3, 3, 6, 6))
    assert conv.composed == 1


def test_composed_once_in_a_training_step(conv):
    conv.train()
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    for step in range(1, 4):
        before = conv.weight.detach().clone()
        conv(torch.ones(3, 3, 6, 6)).sum().backward()
        optimizer.step()
        assert conv.composed == step and not torch.equal(conv.weight, before)


def other_weights(conv):
    return {"weight": 2 * conv.weight.detach(), "basis": conv.basis}


def load(conv):
    conv.load_state_dict(other_weights(conv))


def load_by_assignment(conv):
    conv.load_state_dict(other_weights(conv), assign=True)


def step(conv):
    conv.weight.grad = -conv.weight.detach()
    torch.optim.SGD(conv.parameters(), lr=1.0, foreach=True).step()


def average(conv):
    """As timm's moving average does."""
    values = [conv.state_dict()["weight"]]
    torch._foreach_lerp_(values, [3 * values[0]], weight=0.5)


def other_parameter(conv):
    conv.weight = torch.nn.Parameter(2 * conv.weight.detach())


def other_data(conv):
    conv.weight.data = 2 * conv.weight.data


def silently(conv):
    """What a version counter does not see, then the switch of modes around every evaluation."""
    conv.weight.data.mul_(2)
    conv.train()
    conv.eval()


def other_basis(conv):
    conv.basis.mul_(2)


CHANGES = [
    load,
    load_by_assignment,
    step,
    average,
    other_parameter,
    other_data,
    silently,
    other_basis,
]


@pytest.mark.parametrize("change", CHANGES)
def test_composed_anew_after_a_change(conv, change):
    before = answers(conv)
    change(conv)
    torch.testing.assert_close(answers(conv), 2 * before)
    assert conv.composed == 2


def test_functional_weights(conv):
    """Tensors that come and go, perhaps at the same address."""
    before, expected = answers(conv), conv.weight.detach().clone()
    for factor in (2.0, 3.0, 4.0):
        with torch.no_grad():
            again = functional_call(conv, {"weight": factor * expected}, torch.ones(3, 3, 6, 6))
        torch.testing.assert_close(again, factor * before)
    torch.testing.assert_close(answers(conv), before)


def test_copies_have_kernels_of_their_own():
    conv = make().eval()
    before = answers(conv)
    other = copy.deepcopy(conv)
    with torch.no_grad():
        other.weight.mul_(2)
    torch.testing.assert_close(answers(other), 2 * before)
    assert torch.equal(answers(conv), before)


def test_kernels_kept_without_gradients_do_not_swallow_any(conv):
    with torch.inference_mode():
        conv(torch.ones(3, 3, 6, 6))
    conv(torch.ones(3, 3, 6, 6)).sum().backward()
    assert conv.weight.grad.any()
    conv.requires_grad_(False)
    x = torch.ones(3, 3, 6, 6, requires_grad=True)
    conv(x).sum().backward()  # kept ones of inference mode could not be saved for this
    assert x.grad.any()


def test_autocast(conv):
    """Kernels are composed in float32, then kept in the dtype they are used in."""
    full = answers(conv)
    with torch.autocast("cpu", torch.bfloat16):
        half = answers(conv)
        assert {kernel.dtype for kernel in conv._kept[2]} == {torch.bfloat16}
        answers(conv)
    assert half.dtype == torch.bfloat16 and conv.composed == 2
    torch.testing.assert_close(half.float(), full, rtol=0.02, atol=0.02)
    assert answers(conv).dtype == torch.float32
    conv.train()
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(torch.ones(3, 3, 6, 6))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16 and conv.weight.grad.dtype == torch.float32
