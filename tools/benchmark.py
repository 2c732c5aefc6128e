"""Speed as ratios, measured in one run on this machine; nothing here is a test.

Each line of the first table times two ways to the same numbers: a stated reference, and what QIML does. Then
come the parts of a training step, inference, data, metrics, and how time grows with work. Some eight minutes
on two cores that are otherwise idle; on a busy machine `--cpu-time --threads 1` is disturbed least.

    python tools/benchmark.py --page docs/performance.md     # writes the page of the documentation
    python tools/benchmark.py --quick                        # everything once and tiny, to see that it runs
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from qiml.benchmark.scale import QUICK, Scale
from qiml.benchmark.suite import Inputs, run
from qiml.errors import ConfigError, check_counts, exit_on_error
from qiml.io import atomic_write_text


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: under a minute")
    parser.add_argument("--repeats", type=int, help="of each measurement; the best counts")
    parser.add_argument("--batch-size", type=int, help="of the quick start's step (default: 16)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default: one for each core)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU time, not time on the clock"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them as Markdown, too")
    parser.add_argument(
        "--dataset",
        default="",
        help="load its training frames, as kitti_train or kitti_format:ROOT:train (default: made-up "
        "ones of KITTI's size)",
    )
    parser.add_argument(
        "--kitti",
        type=Path,
        nargs=2,
        metavar=("LABEL_DIR", "RESULT_DIR"),
        default=(None, None),
        help="time the evaluation of these files (default: 400 made-up scenes)",
    )
    parser.add_argument(
        "--devkit",
        type=Path,
        help="with --kitti: binary of the C++ devkit, called with both folders",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_counts(args, repeats=1, batch_size=1, threads=1)
    for path in (*args.kitti, args.devkit):
        if path is not None and not path.exists():
            raise ConfigError(
                path, found="nothing there", expected="what is to be timed", mend="correct the path"
            )
    if args.threads:
        torch.set_num_threads(args.threads)
    changes = {"repeats": args.repeats, "quickstart_batch": args.batch_size}
    scale = replace(
        QUICK if args.quick else Scale(), **{k: v for k, v in changes.items() if v is not None}
    )
    command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])
    report = run(scale, Inputs(args.dataset, *args.kitti, args.devkit), command, args.cpu_time)
    print(f"\n{report.text()}")
    if args.json:
        atomic_write_text(args.json, report.json())
    if args.page:
        atomic_write_text(args.page, report.markdown())


if __name__ == "__main__":
    with exit_on_error():
        main()
