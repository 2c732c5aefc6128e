import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qiml.modeling.neck import BilinearUpsample


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_starts_as_bilinear_interpolation(factor):
    x = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inside = (..., slice(factor, -factor), slice(factor, -factor))  # at the border zeros come in
    torch.testing.assert_close(BilinearUpsample(3, factor)(x)[inside], expected[inside])


def test_half_precision_is_computed_in_float32_on_a_cpu():
    torch.manual_seed(0)
    upsample = BilinearUpsample(16, 2)
    nn.init.normal_(upsample.weight)
    x = torch.randn(2, 16, 8, 10).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = upsample(x)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, upsample(x.detach().float()).bfloat16())
    result.sum().backward()
    assert x.grad.dtype == torch.bfloat16 and upsample.weight.grad.dtype == torch.float32
