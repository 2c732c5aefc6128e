"""Reading and warping images, sorting labels; drawing made-up scenes."""

import numpy as np

from qiml.benchmark.records import Comparison, Measure, Record
from qiml.benchmark.scale import Scale, switched
from qiml.benchmark.timing import Timer
from qiml.benchmark.training import fast_detector, official_loader
from qiml.data.augmentation import random_warp, warp_image
from qiml.data.mapper import MonocularMapper, read_image
from qiml.data.synthetic import render_scene


def compare_loading(timer: Timer, scale: Scale, frames: list[dict], dataset: str) -> list[Record]:
    """From files to the model's input, in one process, against the official style with its host targets."""
    cfg = scale.load("DATASETS.TRAIN", (dataset,), *switched((True, True)))
    mapper, loader = MonocularMapper(cfg, is_train=True), official_loader(cfg, fast_detector(cfg))
    images = [read_image(frame["file_name"]) for frame in frames]

    def warp(index: int) -> None:
        image, rng = images[index], np.random.default_rng(index)
        drawn = random_warp(rng, image.shape[1::-1], scale.size, **mapper.augmentation)
        warp_image(image, drawn, scale.size)

    ours, official, decode, warping = timer.seconds(
        lambda: [mapper(f, np.random.default_rng(i)) for i, f in enumerate(frames)],
        lambda: [loader.sample(f, np.random.default_rng(i)) for i, f in enumerate(frames)],
        lambda: [read_image(f["file_name"]) for f in frames],
        lambda: [warp(i) for i in range(len(frames))],
    )
    count, (height, width) = len(frames), images[0].shape[:2]
    what = f"loading a frame, {width}×{height} → {scale.size[0]}×{scale.size[1]}"
    return [
        Measure(f"{what}, one core", count / ours, "images/s", aim=scale.aims.get("loading")),
        Measure("of which decoding", decode / ours * 100, "%"),
        Measure("of which warping", warping / ours * 100, "%"),
        Comparison(what, "official style", official / count, ours / count),
    ]


def time_drawing(timer: Timer, scale: Scale) -> list[Record]:
    """Made-up scenes, in one process."""
    width, height = scale.quickstart_size
    (seconds,) = timer.seconds(lambda: render_scene(0, 0, scale.quickstart_size))
    return [Measure(f"drawing scenes, {width}×{height}", 1 / seconds, "frames/s")]
