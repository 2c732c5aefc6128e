"""What is refused before a training starts."""

import argparse

import pytest
import torch

from qiml.engine import setup
from qiml.engine.setup import check_crop_depth, check_device, start_run
from qiml.errors import ConfigError


@pytest.mark.parametrize(
    ("head", "suitable", "wrong"),
    [("MonoDLEHead", "virtual", "metric"), ("GUPNetHead", "metric", "virtual")],
)
def test_crops_that_would_teach_wrong_depths(tiny_config, head, suitable, wrong):
    crop, own = "INPUT.AUGMENTATION.CROP", ["MODEL.BOX3D_HEAD.NAME", head]
    own += ["INPUT.AUGMENTATION.CROP_DEPTH"]
    with pytest.raises(ConfigError, match=f"CROP_DEPTH: found '{wrong}' with .*{head}"):
        check_crop_depth(tiny_config(*own, wrong))
    for right in ([*own, suitable], [*own, "ignore"], [*own, wrong, crop, 0.0]):
        check_crop_depth(tiny_config(*right))


def test_several_workers_have_a_gpu_each(tiny_config, monkeypatch):
    cfg = tiny_config()
    check_device(cfg, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cpu", "cuda:0"):
        cfg.MODEL.DEVICE = device
        check_device(cfg, 1)
        with pytest.raises(ConfigError, match=f"MODEL.DEVICE: found '{device}' with 2 workers"):
            check_device(cfg, 2)
    cfg.MODEL.DEVICE = "cuda"
    check_device(cfg, 2)


@pytest.mark.usefixtures("runs_in_process")
@pytest.mark.parametrize("driver", [True, False])
@pytest.mark.parametrize("visible", [None, ""])
def test_a_gpu_that_cannot_be_used_is_named(
    tiny_config, tmp_path, monkeypatch, capsys, driver, visible
):
    """Unless it is hidden."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(setup, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "missing")
    start_run(tiny_config(), argparse.Namespace(config_file="", eval_only=False))
    named = f"PyTorch {torch.__version__} finds no GPU" in capsys.readouterr().out
    assert named == (driver and visible is None)
