import math

import numpy as np
import pytest
import torch

from qiml.losses import OrdinalTripletLoss, RankNContrastLoss, contrastive
from qiml.losses.contrastive import ordinal_triplet_loss, rank_n_contrast_loss

LOSSES = {"rank_n_contrast": rank_n_contrast_loss, "triplet": ordinal_triplet_loss}
MODULES = {"rank_n_contrast": RankNContrastLoss, "triplet": OrdinalTripletLoss}


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def random_objects(count=12, channels=8, seed=0):
    """Depths of whole metres, so that some differences are equal."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, channels, generator=generator, dtype=torch.float64) * 3
    depth = torch.randint(5, 25, (count,), generator=generator).double()
    return features, depth


def rank_n_contrast_by_loops(features, depth, temperature):
    x, z = features.tolist(), depth.tolist()
    objects, terms = range(len(z)), []
    for i in objects:
        for j in objects:
            if j != i:
                total = sum(
                    math.exp(-math.dist(x[i], x[k]) / temperature)
                    for k in objects
                    if k != i and abs(z[i] - z[k]) >= abs(z[i] - z[j])
                )
                terms.append(math.dist(x[i], x[j]) / temperature + math.log(total))
    return sum(terms) / len(terms)


def triplet_by_loops(features, depth, margin, gap):
    x, z = features.tolist(), depth.tolist()
    objects, hinges = range(len(z)), []
    for i in objects:
        for j in objects:
            for k in objects:
                if i != j and abs(z[i] - z[j]) + gap < abs(z[i] - z[k]):
                    hinges.append(math.dist(x[i], x[j]) - math.dist(x[i], x[k]) + margin)
    violating = [hinge for hinge in hinges if hinge > 0]
    return sum(violating) / max(1, len(violating))


@pytest.mark.parametrize("temperature", [2.0, 0.3])
@pytest.mark.parametrize("count", [2, 3, 12])
def test_rank_n_contrast_equals_its_formula(count, temperature):
    features, depth = random_objects(count)
    expected = rank_n_contrast_by_loops(features, depth, temperature)
    assert rank_n_contrast_loss(features, depth, temperature).item() == pytest.approx(expected)


@pytest.mark.parametrize(("margin", "gap"), [(1.0, 1.0), (0.0, 0.0), (20.0, 2.5)])
@pytest.mark.parametrize("at_once", [1, 300, 2**23])
def test_triplet_equals_its_formula(monkeypatch, margin, gap, at_once):
    """Whatever number of anchors is seen at a time."""
    monkeypatch.setattr(contrastive, "_TRIPLETS_AT_ONCE", at_once)
    features, depth = random_objects()
    expected = triplet_by_loops(features, depth, margin, gap)
    assert expected > 0
    assert ordinal_triplet_loss(features, depth, margin, gap).item() == pytest.approx(expected)


def test_gradcheck(name):
    features, depth = random_objects()
    assert torch.autograd.gradcheck(MODULES[name](), (features.requires_grad_(), depth))


def test_order_by_depth_costs_least(name):
    """Descriptors on a line: in the order of depth, against shuffled ones."""
    depth = torch.arange(5.0, 45.0, 2.0)
    ordered = depth[:, None]
    lowest = LOSSES[name](ordered, depth)
    for seed in range(5):
        order = torch.randperm(len(depth), generator=torch.Generator().manual_seed(seed))
        assert LOSSES[name](ordered[order], depth) > lowest + 0.5
    if name == "triplet":
        assert lowest == 0


def test_descent_orders_descriptors(name):
    features, depth = random_objects(count=10, channels=2)
    gap = torch.pdist(depth[:, None])

    def correlation():
        return torch.corrcoef(torch.stack([gap, torch.pdist(features.detach())]))[0, 1]

    assert correlation() < 0.5
    features.requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        LOSSES[name](features, depth).backward()
        optimizer.step()
    assert correlation() > 0.9, correlation()


def test_order_of_objects_does_not_matter(name):
    features, depth = random_objects()
    features.requires_grad_()
    loss = MODULES[name]()(features, depth)
    loss.backward()
    order = torch.randperm(len(depth), generator=torch.Generator().manual_seed(1))
    permuted = features.detach()[order].requires_grad_()
    shuffled = MODULES[name]()(permuted, depth[order])
    shuffled.backward()
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(permuted.grad, features.grad[order])


@pytest.mark.parametrize(
    "features, depth",
    [
        (torch.zeros(0, 4), torch.zeros(0)),
        (torch.ones(1, 4), torch.ones(1)),
        (torch.arange(20.0).reshape(5, 4), torch.full((5,), 7.0)),
        (torch.ones(5, 4), torch.arange(5) * 2.0 + 5),
        (torch.ones(5, 4), torch.full((5,), 7.0)),
        (torch.arange(20.0).reshape(5, 4) * 1e4, torch.arange(5) * 2.0 + 5),
    ],
    ids=["empty", "one", "equal depths", "identical features", "both", "huge distances"],
)
def test_degenerate_input_is_finite(name, features, depth):
    features = features.clone().requires_grad_()
    loss = MODULES[name]()(features, depth)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()
    nothing_to_compare = len(depth) < 2 or (name == "triplet" and len(depth.unique()) < 2)
    if nothing_to_compare:
        assert loss == 0 and not features.grad.any()


def test_half_precision_is_raised_to_float32(name):
    features, depth = random_objects()
    half, criterion = features.to(torch.bfloat16), MODULES[name](weight=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(half, depth.float())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, 0.3 * LOSSES[name](half.float(), depth.float()))


@pytest.mark.parametrize(
    ("module", "bad"),
    [
        (RankNContrastLoss, {"temperature": 0.0}),
        (OrdinalTripletLoss, {"margin": -1.0}),
        (OrdinalTripletLoss, {"gap": -1.0}),
    ],
)
def test_wrong_arguments_are_refused(module, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        module(**bad)


def _worker(rank):
    """Of both losses: value and gradient of this worker's part, uneven on purpose."""
    results = {}
    for name, module in MODULES.items():
        features, depth = random_objects()
        part = slice(0, 5) if rank == 0 else slice(5, None)
        local = features[part].requires_grad_()
        loss = module()(local, depth[part])
        loss.backward()
        results[name] = loss.item(), local.grad.numpy()
    return results


def test_two_workers_equal_one(spawn_workers):
    results = spawn_workers(_worker, 2)
    for name, module in MODULES.items():
        features, depth = random_objects()
        loss = module()(features.requires_grad_(), depth)
        loss.backward()
        for worker in results:
            assert worker[name][0] == pytest.approx(loss.item(), abs=1e-9)
        # Data-parallel training averages gradients over workers, hence the factor 1/2.
        gradient = np.concatenate([worker[name][1] for worker in results]) / 2
        np.testing.assert_allclose(gradient, features.grad.numpy(), rtol=0, atol=1e-9)
