#!/usr/bin/env python
"""Train a monocular 3D detector on a Ray cluster, or on this machine alone."""

import argparse
import json

from qiml.config import load_config
from qiml.errors import exit_on_error

EXAMPLES = """
examples:

On a cluster (cluster/README.md tells how to get one):
    $ ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
        python cluster/train.py --config-file configs/kitti/monodle_dla34_qi_depth.yaml \\
        --num-workers 8 --storage-path s3://BUCKET/results --name my-run

With as many workers as there are GPUs, from 2 to 8:
    $ … python cluster/train.py --config-file … --num-workers 2:8 --storage-path …

On this machine alone, without a cluster:
    $ python cluster/train.py --config-file configs/quickstart.yaml --num-workers 1 --cpu

Go on after anything that stopped it: the same command again, with the same --name.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="as for train_net.py")
    parser.add_argument(
        "--num-workers",
        default="1",
        metavar="N|MIN:MAX",
        help="workers, each with a GPU; a range follows the machines that come and go (default: 1)",
    )
    parser.add_argument("--cpu", action="store_true", help="train without GPUs")
    parser.add_argument(
        "--cpus-per-worker",
        type=int,
        metavar="C",
        help="CPUs of a worker and its data loaders (default: 1; without a cluster and with --cpu, all)",
    )
    parser.add_argument(
        "--storage-path",
        default="~/ray_results",
        metavar="URI",
        help="folder that all machines share, or s3://…, gs://…; checkpoints, record and results go to its "
        "subfolder NAME (default: ~/ray_results)",
    )
    parser.add_argument(
        "--name", help="of the run; the same again resumes (default: the last part of OUTPUT_DIR)"
    )
    parser.add_argument(
        "--max-failures",
        type=int,
        default=3,
        metavar="K",
        help="how often workers may be lost before the run fails; -1: any number of times (default: 3)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE …", help="changes to the config, last"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    cfg = load_config(args.config_file, args.opts)
    # After the checks that need no Ray: importing it takes seconds.
    from qiml.engine.ray_train import Workers, train_on_ray
    from qiml.engine.storage import RunStorage

    workers = Workers.parse(args.num_workers, gpu=not args.cpu, cpus=args.cpus_per_worker)
    name = args.name or cfg.OUTPUT_DIR.rstrip("/").rpartition("/")[2]
    storage = RunStorage.open(args.storage_path, name)
    results = train_on_ray(cfg, workers, storage, args.max_failures)
    storage.write_text("results.json", json.dumps(results, indent=1) + "\n")
    print(
        f"Finished. Record and weights: {storage.path('output')}; results: {storage.path('results.json')}"
    )


if __name__ == "__main__":
    with exit_on_error():
        main()
