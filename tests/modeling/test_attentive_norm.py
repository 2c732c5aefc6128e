import pytest
import torch

from qiml.modeling.attentive_norm import AttentiveBatchNorm2d


@pytest.fixture
def norm():
    torch.manual_seed(0)
    return AttentiveBatchNorm2d(6, mixtures=4)


def test_equals_a_batch_norm_mixed_by_hand(norm):
    x = torch.randn(3, 6, 5, 7)
    output = norm.train()(x)
    plain = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / (
        x.var(dim=(0, 2, 3), keepdim=True, correction=0) + norm.eps
    ).sqrt()
    mixture = norm.mixture(x)
    assert mixture.shape == (3, 4) and ((mixture >= 0) & (mixture <= 1)).all()
    for image in range(3):
        scale, shift = mixture[image] @ norm.scales, mixture[image] @ norm.shifts
        expected = plain[image] * scale[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(output[image], expected, rtol=1e-4, atol=1e-5)


def test_each_image_has_its_own_mixture_at_inference(norm):
    x = torch.randn(2, 6, 5, 7)
    norm.train()(torch.randn(4, 6, 5, 7))
    together, alone = norm.eval()(x), norm(x[1:])
    torch.testing.assert_close(together[1:], alone)


def test_a_batch_of_one_image_trains(norm):
    """Its mixture is normalised by the running statistics, which stay."""
    before = norm.attention_norm.running_mean.clone()
    x = torch.randn(1, 6, 5, 7, requires_grad=True)
    norm.train()(x).square().sum().backward()
    assert x.grad.isfinite().all() and norm.attention.weight.grad.isfinite().all()
    assert torch.equal(norm.attention_norm.running_mean, before)
    assert norm.running_mean.any()


def test_dtype_of_the_map_stays_and_the_mixture_is_float32(norm):
    x, seen = torch.randn(2, 6, 5, 7), []
    norm.attention_norm.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        output = norm.train()(x.bfloat16())
    assert seen == [torch.float32]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), norm(x), rtol=0.05, atol=0.05)
