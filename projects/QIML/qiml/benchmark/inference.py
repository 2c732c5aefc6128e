"""Latency and memory of detection."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from detectron2.modeling import build_model
from torch import nn

import qiml.modeling  # noqa: F401  registers the detector
from qiml.benchmark.memory import peak_bytes
from qiml.benchmark.official import OfficialStyle
from qiml.benchmark.records import Comparison, Detection, Record
from qiml.benchmark.scale import Scale, made_up_batch, switched
from qiml.benchmark.timing import Timer
from qiml.benchmark.training import fast_detector

HEADS = ("MonoDLEHead", "GUPNetHead", "DIDM3DHead", "MonoConHead")
ALL_PEAKS = ("MODEL.BOX3D_HEAD.SCORE_THRESHOLD", 0.0)

Detectors = Mapping[str, tuple[nn.Module, Callable[[], object]]]
"""Name → a detector, and a call that detects with it."""


def compare_inference(timer: Timer, scale: Scale) -> list[Record]:
    """A detector trained with both losses: with what only training needs, without, and the official style."""
    records: list[Record] = []
    for size in scale.inference_batches:
        detections = _detect(timer, _full_size(scale, size), size, at_most=4)
        official, *_, ours = (detection.seconds for detection in detections)
        aim = scale.aims.get("inference") if size == 1 else None
        what = f"{scale.name} inference, batch {size}"
        records += [Comparison(what, "official style", official, ours, aim=aim), *detections]
    return records


def _full_size(scale: Scale, batch_size: int) -> Detectors:
    cfg = scale.load(*switched((True, True)), *ALL_PEAKS)
    batch = made_up_batch(batch_size, *scale.size, cfg.MODEL.DEVICE)
    torch.manual_seed(0)
    official = OfficialStyle(build_model(cfg)).eval()
    images = torch.stack([x["image"] for x in batch])
    images = (images - official.detector.pixel_mean) / official.detector.pixel_std
    whole, slim = fast_detector(cfg).eval(), fast_detector(cfg).for_inference()
    return {
        "official style": (official, partial(official.detect, images, batch)),
        "ours, with auxiliary parts": (whole, partial(whole, batch)),
        "ours": (slim, partial(slim, batch)),
    }


def compare_heads(timer: Timer, scale: Scale) -> list[Record]:
    """The quick start's network with each head on one image, trained with and without the two losses."""
    width, height = scale.quickstart_size
    batch = made_up_batch(1, width, height, scale.load_quickstart().MODEL.DEVICE)
    detectors = {}
    for head in HEADS:
        for losses in ("none", "both losses"):
            switches = switched([losses != "none"] * 2)
            cfg = scale.load_quickstart("MODEL.BOX3D_HEAD.NAME", head, *ALL_PEAKS, *switches)
            detector = fast_detector(cfg).for_inference()
            name = f"quick start {width}×{height}, {head}, trained with {losses}"
            detectors[name] = (detector, partial(detector, batch))
    return _detect(timer, detectors, 1)


def _detect(
    timer: Timer, detectors: Detectors, batch_size: int, at_most: int | None = None
) -> list[Detection]:
    calls = [torch.inference_mode()(call) for _, call in detectors.values()]
    seconds = timer.seconds(*calls, at_most=at_most)
    results = []
    for (name, (model, _)), call, taken in zip(detectors.items(), calls, seconds, strict=True):
        parameters = list(model.parameters())
        count = sum(parameter.numel() for parameter in parameters)
        peak = peak_bytes(call, parameters[0].device)
        results.append(Detection(name, batch_size, count, taken, peak))
    return results
