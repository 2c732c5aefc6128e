from pathlib import Path

import numpy as np
import pytest
import torch

from qiml.losses import QuasiIsometricLoss
from qiml.losses.quasi_isometric import two_sided_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "qi_loss_reference.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})


def golden_case(name):
    features = torch.tensor(GOLDEN[f"{name}/features"], requires_grad=True)
    depth = torch.tensor(GOLDEN[f"{name}/depth"])
    arguments = {
        "k": float(GOLDEN[f"{name}/K"]),
        "b": float(GOLDEN[f"{name}/B"]),
        "epsilon": float(GOLDEN[f"{name}/eps"]),
        "temperature": float(GOLDEN[f"{name}/tau"]),
    }
    return features, depth, arguments


def random_objects(count=12, channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, channels, generator=generator, dtype=torch.float64) * 3
    depth = 5 + 40 * torch.rand(count, generator=generator, dtype=torch.float64)
    return features, depth


@pytest.mark.parametrize("name", CASES)
def test_official_form_equals_the_official_code(name):
    features, depth, arguments = golden_case(name)
    assert features.dtype == torch.float64
    loss = QuasiIsometricLoss(form="official", **arguments)(features, depth)
    loss.backward()
    assert abs(loss.item() - GOLDEN[f"{name}/loss"]) < 1e-9
    if np.isfinite(GOLDEN[f"{name}/grad"]).all():
        np.testing.assert_allclose(features.grad.numpy(), GOLDEN[f"{name}/grad"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("depth_space", ["metric", "log"])
@pytest.mark.parametrize("name", CASES)
def test_two_sided_form_is_finite_and_order_invariant(name, depth_space):
    features, depth, arguments = golden_case(name)
    criterion = QuasiIsometricLoss(form="two_sided", depth_space=depth_space, **arguments)
    loss = criterion(features, depth)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()

    order = torch.randperm(len(depth), generator=torch.Generator().manual_seed(1))
    permuted = features.detach()[order].requires_grad_()
    criterion(permuted, depth[order]).backward()
    torch.testing.assert_close(permuted.grad, features.grad[order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["two_sided", "official"])
def test_gradcheck(form):
    features, depth = random_objects()
    criterion = QuasiIsometricLoss(form=form, epsilon=30.0)
    features.requires_grad_()
    if form == "official":  # the official form detaches one end: only its value can be checked
        assert criterion(features, depth) > 0
    else:
        assert torch.autograd.gradcheck(criterion, (features, depth))


def descend(form, features, depth, steps=1):
    features = features.clone().requires_grad_()
    QuasiIsometricLoss(form=form)(features, depth).backward()
    return features.detach() - 0.1 * steps * features.grad


def test_two_sided_form_separates_close_pairs_and_attracts_far_ones():
    depth = torch.tensor([10.0, 19.0])
    close = torch.tensor([[0.0, 0.0], [1.0, 0.0]])  # the lower bound is 5.5
    far = torch.tensor([[0.0, 0.0], [40.0, 0.0]])  # the upper bound is 14
    assert torch.pdist(descend("two_sided", close, depth)) > torch.pdist(close)
    assert torch.pdist(descend("two_sided", far, depth)) < torch.pdist(far)


def test_official_form_draws_close_pairs_closer():
    """Its wrong sign, documented by a test: the too-close pair (0, 1) shrinks."""
    depth = torch.tensor([10.0, 19.0, 11.0])
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 40.0]])
    after = descend("official", features, depth)
    assert torch.pdist(after[:2]) < torch.pdist(features[:2])


def test_pairs_inside_the_bounds_cost_nothing():
    depth = torch.tensor([10.0, 14.0, 40.0])
    features = torch.tensor([[0.0], [4.0], [500.0]])  # the third is beyond epsilon of both
    assert QuasiIsometricLoss()(features, depth) == 0


def test_two_sided_value():
    # one pair, gap 2, distance 10: upper violation 10 − 1.5·2 − 0.5 = 6.5, weight 0.5
    loss = QuasiIsometricLoss()(torch.tensor([[0.0], [10.0]]), torch.tensor([10.0, 12.0]))
    assert loss.item() == pytest.approx(0.5 * 6.5)


@pytest.mark.parametrize("form", ["two_sided", "official"])
@pytest.mark.parametrize(
    "features, depth",
    [
        (torch.zeros(0, 4), torch.zeros(0)),
        (torch.zeros(1, 4), torch.ones(1)),
        (torch.zeros(5, 4), torch.full((5,), 7.0)),
        (torch.zeros(5, 4), torch.arange(5) * 2.0 + 5),
        (torch.arange(20.0).reshape(5, 4) * 1e4, torch.arange(5) * 2.0 + 5),
    ],
    ids=["empty", "one", "equal depths", "identical features", "huge distances"],
)
def test_degenerate_input_is_finite(form, features, depth):
    features = features.clone().requires_grad_()
    loss = QuasiIsometricLoss(form=form)(features, depth)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()


def test_half_precision_is_raised_to_float32():
    features, depth = random_objects()
    half = features.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = QuasiIsometricLoss()(half, depth.float())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, QuasiIsometricLoss()(half.float(), depth.float()))


@pytest.mark.parametrize(
    "bad",
    [
        {"form": "onesided"},
        {"depth_space": "inverse"},
        {"k": 0.5},
        {"b": -1.0},
        {"epsilon": -1.0},
        {"form": "official", "temperature": 0.0},
    ],
)
def test_wrong_arguments_are_refused(bad):
    with pytest.raises(ValueError):
        QuasiIsometricLoss(**bad)


def test_learnt_scale_makes_the_bounds_independent_of_the_features_scale():
    """Features with the right distances but for a factor: the loss finds the factor, the features stay."""
    depth = torch.linspace(10, 30, 15)
    features = torch.stack([depth / 50, torch.zeros(15)], dim=1)
    loss = QuasiIsometricLoss(b=0.0, learn_scale=True)
    assert loss(features, depth) == QuasiIsometricLoss(b=0.0)(features, depth) > 0
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(features, depth).backward()
        optimizer.step()
    assert loss(features, depth) == 0 and 33 < loss.log_scale.exp() < 75


def _worker(rank, form):
    features, depth = random_objects()
    part = slice(0, 5) if rank == 0 else slice(5, None)  # uneven on purpose
    local = features[part].requires_grad_()
    loss = QuasiIsometricLoss(form=form, learn_scale=True)
    value = loss(local, depth[part])
    value.backward()
    return value.item(), local.grad.numpy(), loss.log_scale.grad.item()


@pytest.mark.parametrize("form", ["two_sided", "official"])
def test_two_workers_equal_one(form, spawn_workers):
    features, depth = random_objects()
    features.requires_grad_()
    loss = QuasiIsometricLoss(form=form, learn_scale=True)
    value = loss(features, depth)
    value.backward()

    results = spawn_workers(_worker, 2, form)
    values, gradients, scale_gradients = zip(*results, strict=True)
    assert values == pytest.approx([value.item()] * 2, abs=1e-9)
    # Data-parallel training averages gradients over workers, hence the factor 1/2.
    assert sum(scale_gradients) / 2 == pytest.approx(loss.log_scale.grad.item(), rel=1e-6)
    gradient = np.concatenate(gradients) / 2
    np.testing.assert_allclose(gradient, features.grad.numpy(), rtol=0, atol=1e-9)


def literal_two_sided(features, depth, k, b, epsilon):
    """The formula as it reads, on the whole matrix, differentiated by autograd."""
    gap = (depth[:, None] - depth).abs()
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    violation = torch.maximum(distance - k * gap - b, gap / k - b - distance)
    violation = violation[(gap <= epsilon) & (gap > 1e-12) & (violation > 0)]
    return violation.sum() / max(len(violation), 1)


@pytest.mark.parametrize("count", [2, 127, 129, 300])
def test_blocks_of_rows_equal_the_whole_matrix(count):
    features, depth = random_objects(count)
    features[count // 2] = features[0]  # no direction leads apart
    results = []
    for loss in (two_sided_loss, literal_two_sided):
        x = features.clone().requires_grad_()
        value = loss(x, depth, 1.5, 0.5, 10.0)
        results.append((value.detach(), *torch.autograd.grad(value, x)))
    torch.testing.assert_close(*results)


def test_two_sided_function_matches_module_without_weight():
    features, depth = random_objects()
    expected = QuasiIsometricLoss(weight=1.0)(features, depth)
    torch.testing.assert_close(two_sided_loss(features, depth, 1.5, 0.5, 10.0), expected)
