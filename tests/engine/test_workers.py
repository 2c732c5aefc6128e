"""Two workers with half a batch each train as one with the whole: losses, gradients, statistics, weights."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.nn.modules.batchnorm import _BatchNorm

from qiml.config import load_config_text
from qiml.data.catalog import register_datasets
from qiml.data.kitti_format import read_objects, write_objects
from qiml.data.loader import build_train_loader
from qiml.engine.hooks import PreciseBatchNorm
from qiml.engine.train_step import average_running_statistics, distribute
from qiml.engine.trainer import Trainer

HEADS = ("MonoDLEHead", "GUPNetHead", "DIDM3DHead", "MonoConHead")


def first_step(cfg):
    """Losses and gradients of the first batch, in float64; batch normalisation by running statistics.

    (Each worker normalises by its own share, which is not what is compared here.) What the model computes in
    float32 whatever its weights are is computed in float64, too.
    """
    register_datasets(cfg.DATASETS.TRAIN)
    batch = next(iter(build_train_loader(cfg)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        return _losses_and_gradients(cfg, batch)


def _losses_and_gradients(cfg, batch):
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).double()
    # Far from the initial 0, so that every term has something to say.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    wrapped = distribute(model)
    losses = wrapped(batch)
    sum(losses.values()).backward()
    values = {name: v.detach().clone() for name, v in losses.items()}
    for value in values.values():
        if comm.get_world_size() > 1:
            dist.all_reduce(value)
            value /= comm.get_world_size()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return {name: value.item() for name, value in values.items()}, gradients


def _worker(rank, configs):
    torch.set_num_threads(1)
    return [first_step(load_config_text(config)) for config in configs]


@pytest.mark.parametrize(
    "size, empty, crop",
    [(2, 0, 0.0), (2, 0, 0.5), (3, 3, 0.5)],
    ids=["even", "even, some cropped", "uneven, some without objects"],
)
def test_workers_give_the_losses_and_gradients_of_one(
    kitti_folder, tiny_config, tiny_steerable, spawn_workers, size, empty, crop
):
    """Four of five frames, of objects of other sizes each; cropped ones have no 3D supervision.

    With three empty frames, at least one of three workers has none. The workers start once for all detectors,
    which takes longer than all they do.
    """
    root = kitti_folder(frames=5)
    for index in range(5):
        path = root / "training" / "label_2" / f"{index:06d}.txt"
        objects = read_objects(path, scored=False)
        objects.dimensions[:] *= 1 + 0.2 * index
        write_objects(path, objects if index >= empty else objects[:0])
    common = ("DATASETS.TRAIN", f"('kitti_format:{root}:train',)", "SOLVER.IMS_PER_BATCH", 4)
    common += ("INPUT.AUGMENTATION.CROP", crop)
    detectors = {head: ("MODEL.BOX3D_HEAD.NAME", head) for head in HEADS}
    detectors["DEVIANT"] = tiny_steerable
    detectors["within images"] = ("MODEL.QUASI_ISOMETRIC.ACROSS_IMAGES", False)
    configs = {
        name: tiny_config(*common, *detector, "INPUT.FILTER.MIN_HEIGHT", 1.0)
        for name, detector in detectors.items()
    }
    together, *_ = spawn_workers(_worker, size, [cfg.dump() for cfg in configs.values()])
    for (name, cfg), shared in zip(configs.items(), together, strict=True):
        _compare(name, first_step(cfg), shared)


def _compare(what, alone, together):
    (losses, gradients), (shared, shared_gradients) = alone, together
    assert losses.keys() == shared.keys() and all(value != 0 for value in losses.values()), what
    for name, value in losses.items():
        assert shared[name] == pytest.approx(value, rel=1e-6), (what, name)
    for name, gradient in gradients.items():
        scale = max(np.abs(gradient).max(), 1e-12)
        assert np.abs(shared_gradients[name] - gradient).max() < 1e-6 * scale, (what, name)


def _average(rank):
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(2))
    for layer in model:
        layer.running_mean += rank
        layer.running_var += 2 * rank
    average_running_statistics(model)
    return [(layer.running_mean.tolist(), layer.running_var.tolist()) for layer in model]


def test_running_statistics_are_the_mean_over_workers(spawn_workers):
    for first, second in spawn_workers(_average, 2):
        assert first == ([0.5] * 3, [2.0] * 3) and second == ([0.5] * 2, [2.0] * 2)


def _precise_statistics(rank, config):
    torch.set_num_threads(1)
    cfg = load_config_text(config)
    register_datasets(cfg.DATASETS.TRAIN)
    model = Trainer.build_model(cfg)
    hook = PreciseBatchNorm(model, partial(build_train_loader, cfg), num_iter=2, period=0)
    hook.trainer = SimpleNamespace(iter=0, max_iter=1)
    hook.after_step()
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [(layer.running_mean.tolist(), layer.running_var.tolist()) for layer in layers]


def test_statistics_are_measured_where_some_workers_see_no_objects(
    kitti_folder, tiny_config, spawn_workers
):
    """Losses add over workers: one that passed over a batch would leave the other waiting."""
    root = kitti_folder(frames=4)
    path = root / "training" / "label_2" / "000000.txt"
    write_objects(path, read_objects(path, scored=False)[:0])
    cfg = tiny_config(
        *("DATASETS.TRAIN", f"('kitti_format:{root}:train',)", "SOLVER.IMS_PER_BATCH", 2),
        *("INPUT.FILTER.MIN_HEIGHT", 1.0, "MODEL.BOX3D_HEAD.NAME", "GUPNetHead"),
    )
    first, second = spawn_workers(_precise_statistics, 2, cfg.dump())
    assert first == second and np.isfinite(np.concatenate(sum(first, ()))).all()
