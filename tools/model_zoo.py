#!/usr/bin/env python
"""Write docs/model-zoo.md: what each KITTI config costs at inference, and how well it detects."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from tqdm import tqdm

import qiml.modeling  # noqa: F401  registers the detector
from qiml.config import load_config
from qiml.errors import ConfigError, exit_on_error
from qiml.io import atomic_write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "model-zoo.md"
CONFIGS = ROOT / "configs" / "kitti"
RESULTS = ROOT / "docs" / "results"

EXAMPLES = """\
Every configs/kitti/*.yaml has a row. Numbers of ours come from docs/results/NAME.json where there is one:
copy OUTPUT_DIR/kitti_kitti_val.json of a finished run there.

Examples:

    $ python tools/model_zoo.py            # measure (some seconds a config) and write
    $ python tools/model_zoo.py --check    # measure and compare: exit code 2 if the page is out of date
"""

# KITTI val, Car, AP40 3D at IoU 0.7: easy, moderate, hard; and where that is printed.
PUBLISHED: dict[str, tuple[tuple[tuple[float, float, float], str], ...]] = {
    "monodle_dla34": (
        ((17.45, 13.66, 11.68), "paper, in MonoDLE's README"),
        ((17.94, 13.72, 12.10), "MonoDLE's README, its code"),
        ((17.32, 14.35, 12.22), "DDML-M3DOD's README, the baseline"),
    ),
    "monodle_dla34_qi_depth": (
        (
            (21.31, 16.53, 13.93),
            "DDML-M3DOD's README; by its own form of the loss, `FORM official`",
        ),
    ),
    "gupnet_dla34": (
        ((22.76, 16.46, 13.72), "paper, in GUPNet's README; trained on cars"),
        ((23.19, 16.23, 13.57), "GUPNet's README, its checkpoint of three classes"),
    ),
    "did_m3d_dla34": (
        ((22.98, 16.12, 14.03), "paper, in DID-M3D's README"),
        ((25.38, 17.07, 14.06), "DID-M3D's README, its code; both with dense depth maps"),
    ),
    "deviant_dla34": (((24.63, 16.54, 14.52), "DEVIANT's README"),),
    "monocon_dla34": (
        ((26.33, 19.03, 16.00), "MonoCon's README, best run"),
        ((25.74, 18.92, 16.00), "MonoCon's README, mean of five runs"),
    ),
}

INTRODUCTION = """\
# Model zoo

Written by `python tools/model_zoo.py`; do not edit. Parameters and multiply-adds are those of the detector at
inference, for one image of the config's input size (convolutions, matrix products and norms, counted by
fvcore). The two losses change neither. The last columns are AP40 of 3D boxes of cars on KITTI val at IoU 0.7,
easy / moderate / hard; `n/a` where no number is at hand. Weights of ours are not published yet; for official
ones see `python tools/convert_checkpoint.py --help`.

| config | input | parameters | multiply-adds | published | ours |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Cost:
    """Of one image at inference, as printed."""

    input_size: str
    parameters: str
    multiply_adds: str


class _Inference(nn.Module):
    """A detector as a function of one image, all its outputs read: fvcore drops what is not."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[-2:]
        camera = torch.tensor([[700.0, 0, width / 2, 0], [0, 700, height / 2, 0], [0, 0, 1, 0]])
        inputs = {"image": image, "camera": camera, "affine": torch.eye(2, 3)}
        (output,) = self.detector([{**inputs, "height": height, "width": width}])
        fields = output["instances"].get_fields()
        return tuple(getattr(value, "tensor", value) for value in fields.values())


def measure(config: Path) -> Cost:
    """Build the detector of a config and count."""
    overrides = ["MODEL.BACKBONE.PRETRAINED", "False", "MODEL.DEVICE", "cpu"]
    overrides += ["SOLVER.AMP.ENABLED", "False", "MODEL.BOX3D_HEAD.SCORE_THRESHOLD", "0.0"]
    cfg = load_config(str(config), overrides)
    detector = build_model(cfg).for_inference()
    width, height = cfg.INPUT.SIZE
    inference, image = _Inference(detector), torch.zeros(3, height, width)
    with torch.no_grad():
        inference(image)  # composes the kernels of steerable convolutions, for all images
        analysis = FlopCountAnalysis(inference, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        multiply_adds = analysis.total()
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return Cost(f"{width}×{height}", f"{parameters / 1e6:.2f} M", f"{multiply_adds / 1e9:.1f} G")


def our_result(name: str) -> tuple[float, float, float] | None:
    """AP40 of cars in the evaluation's JSON of a run of ours, if there is one."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    easy, moderate, hard, *_ = json.loads(path.read_text())["results"]["Car"]["AP40"]["3d"]
    return easy, moderate, hard


def render(costs: dict[str, Cost]) -> str:
    """The page, a row for each config's name."""
    rows = []
    for name, cost in costs.items():
        published = [f"{_levels(ap)} ({source})" for ap, source in PUBLISHED.get(name, ())]
        ours = our_result(name)
        cells = [f"[`{name}`](../configs/kitti/{name}.yaml)", cost.input_size, cost.parameters]
        cells += [cost.multiply_adds, "<br>".join(published) or "n/a"]
        cells += [_levels(ours) if ours else "n/a"]
        rows.append(f"| {' | '.join(cells)} |\n")
    return INTRODUCTION + "".join(rows)


def _levels(ap: tuple[float, float, float]) -> str:
    return " / ".join(f"{value:.2f}" for value in ap)


def configs() -> list[Path]:
    """In the order of the page."""
    return sorted(CONFIGS.glob("*.yaml"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare the page, write nothing")
    arguments = parser.parse_args()
    with exit_on_error():
        costs = {p.stem: measure(p) for p in tqdm(configs(), unit="config", file=sys.stderr)}
        page = render(costs)
        if not arguments.check:
            atomic_write_text(PAGE, page)
            print(f"Wrote {PAGE}: {len(costs)} configs")
        elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            raise ConfigError(
                PAGE,
                found="a page that is out of date, or none",
                expected="what the configs give now",
                mend="run python tools/model_zoo.py and commit the page",
            )


if __name__ == "__main__":
    main()
