import logging

import pytest
import torch
from torch import nn
from torch.profiler import profile

from qiml.modeling import precision
from qiml.modeling.precision import computes_in, mixed_precision


@pytest.fixture(autouse=True)
def asked_anew():
    computes_in.cache_clear()
    yield
    computes_in.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN: all is a loop")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_only_where_pytorch_has_more_than_a_loop_for_it(dtype):
    """By what this machine runs when asked for a convolution; float16 is for GPUs, even if a CPU is fast."""
    conv, x = nn.Conv2d(16, 32, 3), torch.randn(2, 16, 24, 24)
    with profile() as asked, torch.autocast("cpu", dtype):
        conv(x)
    loop = "aten::_slow_conv2d_forward" in {event.key for event in asked.key_averages()}
    fast = dtype == torch.bfloat16 and not loop
    assert computes_in("cpu", dtype) is fast
    with profile() as chosen, mixed_precision(torch.device("cpu"), dtype):
        assert conv(x).dtype == (dtype if fast else torch.float32)
    assert "aten::_slow_conv2d_forward" not in {event.key for event in chosen.key_averages()}


def test_float32_throughout():
    with mixed_precision(torch.device("cpu"), None):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_slow_device_is_told_of_once(monkeypatch, caplog):
    monkeypatch.setattr(precision, "_cpu_computes_in", lambda dtype: False)
    with caplog.at_level(logging.WARNING):
        assert not computes_in("cpu", torch.bfloat16) and not computes_in("cpu", torch.bfloat16)
    assert caplog.messages == ["This CPU is slow in bfloat16: computing in float32"]


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus(monkeypatch, caplog, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert computes_in("cuda", torch.bfloat16) is fast and computes_in("cuda", torch.float16)
    assert ("SOLVER.AMP.DTYPE float16" in caplog.text) is not fast
