"""Training steps: against the official style and by phase, what the two losses add, and their parts."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch.utils.flop_counter import FlopCounterMode

import qiml.modeling  # noqa: F401  registers the detector
from qiml.benchmark.memory import count_waits
from qiml.benchmark.official import HostLoader, OfficialStyle, read_maps
from qiml.benchmark.records import Arithmetic, Comparison, Measure, Phases, Record, Term
from qiml.benchmark.scale import Scale, made_up_batch, switched
from qiml.benchmark.timing import Stopwatch, Timer, forward_and_backward
from qiml.data.mapper import MonocularMapper
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.solver import build_optimizer
from qiml.engine.trainer import Trainer
from qiml.losses import heatmap_focal_loss
from qiml.modeling.box3d.centre_head import CentreHead, CentrePredictions
from qiml.modeling.detector import MonocularDetector3D
from qiml.modeling.precision import convolution_dtype
from qiml.modeling.targets import ObjectTargets, flatten_objects, render_heatmap

Step = Callable[[], dict[str, float]]


def fast_detector(cfg: CfgNode) -> MonocularDetector3D:
    """As the trainer builds it."""
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


def our_step(cfg: CfgNode, frames: list[dict], clock: Callable[[], float]) -> Step:
    """One step from files on the disk to new weights; returns the seconds of its phases."""
    model = fast_detector(cfg).train()
    optimizer, mapper = build_optimizer(cfg, model), MonocularMapper(cfg, is_train=True)

    def step() -> dict[str, float]:
        watch = Stopwatch(clock)
        batch = [mapper(f, np.random.default_rng(i)) for i, f in enumerate(frames)]
        watch.lap("data")
        with model.mixed_precision():
            features = model.extract_features(batch)
            predictions = model.box3d_head(features)
            watch.lap("forward")
            losses = model.losses(features, predictions, [x["instances"] for x in batch])
        return _finish(watch, optimizer, losses)

    return step


def official_step(cfg: CfgNode, frames: list[dict], clock: Callable[[], float]) -> Step:
    """The same of the same batch in the official style."""
    torch.manual_seed(0)
    model = OfficialStyle(build_model(cfg)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.SOLVER.BASE_LR)
    loader, device = official_loader(cfg, model.detector), model.detector.device

    def step() -> dict[str, float]:
        watch = Stopwatch(clock)
        images, targets = loader.batch(frames)
        watch.lap("data")
        features, maps = model(images.to(device))
        watch.lap("forward")
        return _finish(watch, optimizer, model.losses(features, maps, targets.to(device)))

    return step


def official_loader(cfg: CfgNode, detector: MonocularDetector3D) -> HostLoader:
    return HostLoader(
        MonocularMapper(cfg, is_train=True),
        detector.neck.stride,
        cfg.MODEL.BOX3D_HEAD.NUM_CLASSES,
        cfg.MODEL.PIXEL_MEAN,
        cfg.MODEL.PIXEL_STD,
    )


def _finish(
    watch: Stopwatch, optimizer: torch.optim.Optimizer, losses: dict[str, torch.Tensor]
) -> dict[str, float]:
    total = sum(losses.values())
    total.item()  # the trainer refuses NaN and infinity before the weights take them up
    watch.lap("loss")
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    watch.lap("backward")
    optimizer.step()
    watch.lap("optimiser")
    return watch.laps


def compare_official(
    timer: Timer, scale: Scale, frames: list[dict], dataset: str
) -> tuple[list[Record], float]:
    """A step in bfloat16 and float32 against the official style, by phase; and the first's seconds."""
    common = ("DATASETS.TRAIN", (dataset,), *switched((True, True)))
    single = scale.load(*common, "SOLVER.AMP.ENABLED", False)
    frames = [frames[i % len(frames)] for i in range(scale.batch)]
    steps = {
        "official style": official_step(single, frames, timer.clock),
        "ours, float32": our_step(single, frames, timer.clock),
        "ours, bfloat16": our_step(scale.load(*common), frames, timer.clock),
    }
    runs = timer.fastest(*steps.values(), at_most=4)
    official, plain, ours = (run.seconds for run in runs)
    name = f"{scale.name} step, batch {scale.batch}"
    records = [
        Comparison(
            f"{name}, bfloat16", "official style", official, ours, aim=scale.aims.get("step")
        ),
        Comparison(f"{name}, float32", "official style", official, plain),
    ]
    device = torch.device(single.MODEL.DEVICE)
    for (what, step), run in zip(steps.items(), runs, strict=True):
        # What the step computes in: where bfloat16 is emulated, one such product takes half a minute.
        dtype = convolution_dtype(device, torch.bfloat16 if what.endswith("bfloat16") else None)
        speed = matrix_product_speed(timer, dtype, device)
        arithmetic = Arithmetic(what, operations_of(step), run.seconds, speed)
        records += [Phases(what, run.result), arithmetic]
    limit = official / arithmetic.floor
    records.append(Measure(f"{name}, bfloat16: the ratio at the floor", limit, "× official style"))
    return records, ours


def operations_of(call: Callable[[], object]) -> int:
    """Multiplications and additions of its convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def matrix_product_speed(
    timer: Timer, dtype: torch.dtype, device: torch.device, size: int = 2048
) -> float:
    """Operations a second of one large matrix product."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    (seconds,) = timer.seconds(lambda: matrix @ matrix)
    return 2 * size**3 / seconds


def made_up_step(cfg: CfgNode, batch_size: int, dense: bool = False) -> Callable[[], None]:
    """A step on a made-up batch that is in memory already; `dense`: branches over the whole map."""
    model = fast_detector(cfg).train()
    if dense:
        model.box3d_head.regress = _dense_regress(model.box3d_head)
    optimizer = build_optimizer(cfg, model)
    batch = made_up_batch(batch_size, *cfg.INPUT.SIZE, model.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model(batch).values()).backward()
        optimizer.step()

    return step


def _dense_regress(head: CentreHead) -> Callable[..., dict[str, torch.Tensor]]:
    """In the place of the head's `regress`: branches over the whole map, read at objects afterwards."""

    def regress(features, image_index, cells):
        maps = {name: head.get_submodule(name)(features) for name in head.regression_channels}
        return read_maps(maps, image_index, cells)

    return regress


def compare_quickstart(timer: Timer, scale: Scale) -> list[Record]:
    """The quick start's step against its variants."""
    size, load = scale.quickstart_batch, scale.load_quickstart
    ours, plain, dense, single = timer.seconds(
        made_up_step(load(), size),
        made_up_step(load(*switched((False, False))), size),
        made_up_step(load(), size, dense=True),
        made_up_step(load("SOLVER.AMP.ENABLED", False), size),
    )
    name = f"quick-start step, batch {size}"
    width, height = scale.quickstart_size
    return [
        Comparison(name, "branches over the whole map", dense, ours),
        Comparison(name, "float32 instead of bfloat16", single, ours),
        Comparison(name, "without the two losses", plain, ours),
        Measure(f"quick-start training, {width}×{height}, data aside", size / ours, "images/s"),
    ]


def compare_losses_added(timer: Timer, scale: Scale) -> list[Record]:
    """What the two losses add to a step."""
    flags = ((False, False), (False, True), (True, False), (True, True))
    steps = [made_up_step(scale.load(*switched(each)), scale.batch) for each in flags]
    plain, *others = timer.seconds(*steps, at_most=4)
    names = ("quasi-isometric loss", "object-depth head", "both")
    return [
        Comparison(f"{scale.name} step with {name}", "without the two losses", plain, seconds)
        for name, seconds in zip(names, others, strict=True)
    ]


def time_loss_terms(timer: Timer, scale: Scale, step_seconds: float) -> list[Record]:
    """Each part of the losses, forward and backward to the neck's output, beside a whole step."""
    cfg = scale.load(*switched((True, True)))
    model = fast_detector(cfg).train()
    head, size = model.box3d_head, (scale.batch, *cfg.INPUT.SIZE, cfg.MODEL.DEVICE)
    batch, crowd = made_up_batch(*size), made_up_batch(*size, objects=100 // scale.batch)
    instances = [x["instances"] for x in batch]
    with torch.no_grad(), model.mixed_precision():
        features = model.extract_features(batch)
    features = features.detach().requires_grad_()
    place = (model.neck.stride, features.shape[-2:])
    targets = flatten_objects(instances, *place).to(model.device)
    crowded = flatten_objects([x["instances"] for x in crowd], *place).to(model.device)
    painted = model.object_depth_head.paint(instances, *place)
    heatmap = render_heatmap(targets, head.num_classes)
    logits = torch.randn_like(heatmap).requires_grad_()

    def regression() -> torch.Tensor:
        at_objects = head.regress(features, targets.image_index, targets.cells)
        return sum(head.regression_losses(at_objects, targets).values())

    def metric(of: ObjectTargets) -> Callable[[], torch.Tensor]:
        predictions = CentrePredictions(logits, features)
        return lambda: model.descriptor_loss(features, predictions, of)

    losses = {
        "heat map: focal loss": lambda: heatmap_focal_loss(logits, heatmap),
        "branches and their losses": regression,
        "object-depth head and its loss": lambda: model.object_depth_head.loss(features, painted),
        f"quasi-isometric loss, {len(targets)} objects": metric(targets),
        f"quasi-isometric loss, {len(crowded)} objects": metric(crowded),
    }
    calls = {
        "targets: sorting labels": lambda: flatten_objects(instances, *place),
        "targets: heat map": lambda: render_heatmap(targets, head.num_classes),
        "targets: painted depth": lambda: model.object_depth_head.paint(instances, *place),
        **{name: forward_and_backward(loss, [features, logits]) for name, loss in losses.items()},
    }
    aims = {name: scale.aims.get("metric loss, share") for name in list(losses)[-1:]}
    with model.mixed_precision():
        seconds = timer.seconds(*calls.values())
    return [
        Term(name, taken, step_seconds, aim=aims.get(name))
        for name, taken in zip(calls, seconds, strict=True)
    ]


def time_checkpoint(timer: Timer, scale: Scale) -> list[Record]:
    """Saving weights and Adam's state, safe against a power cut."""
    cfg = scale.load()
    model = fast_detector(cfg)
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = DetectorCheckpointer(model, folder, optimizer=optimizer)
        (seconds,) = timer.seconds(lambda: checkpointer.save("model"))
        size = (Path(folder) / "model.pth").stat().st_size
    return [
        Measure(f"saving a checkpoint of {scale.name}, {size / 1e6:.0f} MB", seconds * 1e3, "ms")
    ]


def measure_waits(scale: Scale) -> list[Record]:
    """How often a step makes the host wait for the device, the one reading of the losses aside."""
    waits = waits_of_step(scale.load(*switched((True, True))), scale.batch)
    what = "waits for the device in forward, losses and backward"
    return [Measure(what, waits.total(), aim=scale.aims.get("waits"))]


def waits_of_step(cfg: CfgNode, batch_size: int) -> Counter[str]:
    """:func:`count_waits` of forward, losses and backward."""
    model = fast_detector(cfg).train().to("meta")
    batch = made_up_batch(batch_size, *cfg.INPUT.SIZE, "meta")
    return count_waits(lambda: sum(model(batch).values()).backward())
