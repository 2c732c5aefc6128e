#!/usr/bin/env python
"""Measure whether a trained detector's object descriptors follow depth."""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from qiml.config import load_config
from qiml.engine.descriptors import ObjectDescriptors, collect_descriptors
from qiml.engine.trained import load_trained_model
from qiml.errors import CheckpointError, ConfigError, DatasetError, check_counts, exit_on_error
from qiml.evaluation.manifold import measure
from qiml.evaluation.manifold_plot import plot_manifold
from qiml.io import atomic_write_text
from qiml.modeling.metric_loss import choose_depth_space

MEANINGS = {
    "objects": "objects measured",
    "local_pairs": "pairs with 0 < Δz ≤ ε",
    "inside": "share of local pairs inside the bounds",
    "too_close": "share too close for their depths",
    "too_far": "share too far",
    "spearman_local": "rank correlation of feature and depth distance, local pairs",
    "pearson_local": "linear correlation, local pairs",
    "spearman_all": "rank correlation, all pairs",
    "pearson_all": "linear correlation, all pairs",
    "connected": "share of pairs the 10-NN graph connects",
    "geodesic_spearman": "rank correlation of geodesic and depth distance",
    "geodesic_pearson": "linear correlation of geodesic and depth distance",
    "geodesic_ratio": "mean of geodesic / Euclidean distance",
    "knn_depth_error": "error of the 10 nearest neighbours' mean depth, m",
}

EXAMPLES = """\
K, B, ε and the depth space are those of MODEL.QUASI_ISOMETRIC, whether or not the training used the loss:
give models that are compared the same. Depth is predicted from the objects of --reference, else from the
others of the data set. manifold.json holds null for what too few objects cannot tell.

Examples:

    $ python tools/measure_manifold.py --config-file configs/quickstart.yaml \\
          --weights output/quickstart/model_final.pth --reference synthetic_train --limit 500

A model that was trained without the loss, measured by bounds in log-depth:
    $ python tools/measure_manifold.py --config-file configs/kitti/monodle_dla34.yaml \\
          --weights weights/monodle.pth --dataset kitti_val MODEL.QUASI_ISOMETRIC.DEPTH_SPACE log
"""


def collect(cfg, args: argparse.Namespace) -> list[ObjectDescriptors]:
    """Descriptors of the data set's objects and, where there is a reference, of its."""
    model = load_trained_model(cfg, cfg.MODEL.WEIGHTS)
    found = []
    for name in [args.dataset or cfg.DATASETS.TEST[0], *([args.reference] * bool(args.reference))]:
        (objects,) = collect_descriptors(cfg, model, name, args.limit).values()
        found.append(objects)
        if len(found[-1]) < 2:
            raise DatasetError(
                name,
                found=f"{len(found[-1])} objects that would train",
                expected="at least 2",
                mend="take a split with labels, more frames (--limit), or another INPUT.FILTER",
            )
        if not np.isfinite(found[-1].descriptors).all():
            raise CheckpointError(
                cfg.MODEL.WEIGHTS,
                found="weights whose descriptors are not finite",
                expected="a training that did not diverge",
                mend="take an earlier checkpoint",
            )
    return found


def load(args: argparse.Namespace):
    """Config of the command line, for a model whose weights come from a checkpoint alone.

    Raises:
        ConfigError: no weights, no data set, or a limit below 1.
    """
    cfg = load_config(args.config_file, args.opts)
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "--weights",
            found="nothing",
            expected="a checkpoint",
            mend="give OUTPUT_DIR/model_final.pth of a finished run",
        )
    if not (args.dataset or cfg.DATASETS.TEST):
        raise ConfigError(
            "--dataset",
            found="nothing, and no DATASETS.TEST",
            expected="the name of a data set with labels",
            mend="give one, such as kitti_val",
        )
    check_counts(args, limit=1)
    cfg.freeze()
    return cfg


def table(numbers: dict[str, float]) -> str:
    """A line for each number."""
    lines = []
    for name, value in numbers.items():
        text = "-" if math.isnan(value) else f"{value:.3f}".removesuffix(".000")
        lines.append(f"{name:18}{text:>10}  {MEANINGS[name]}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the training")
    parser.add_argument("--weights", help="checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument(
        "--dataset", metavar="NAME", help="with labels (default: first of DATASETS.TEST)"
    )
    parser.add_argument("--reference", metavar="NAME", help="predict depth from this one's objects")
    parser.add_argument("--limit", type=int, metavar="N", help="N frames, evenly spread, of each")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for the results (default: OUTPUT_DIR)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="of the config")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    with exit_on_error():
        cfg = load(args)
        objects, *reference = collect(cfg, args)
        qi = cfg.MODEL.QUASI_ISOMETRIC
        bounds = {
            "k": qi.K,
            "b": qi.B,
            "epsilon": qi.EPSILON,
            "depth_space": choose_depth_space(cfg),
        }
        others = next(((r.descriptors, r.depth) for r in reference), None)
        numbers = measure(objects.descriptors, objects.depth, reference=others, **bounds)
        output = args.output or Path(cfg.OUTPUT_DIR)
        values = {k: None if math.isnan(v) else v for k, v in numbers.items()}
        atomic_write_text(output / "manifold.json", json.dumps(values, indent=1) + "\n")
        plot_manifold(objects.descriptors, objects.depth, output / "manifold.png", **bounds)
    print(table(numbers))
    print(f"Wrote manifold.json and manifold.png in {output}")


if __name__ == "__main__":
    main()
