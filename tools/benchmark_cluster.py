"""What Ray costs and what a second worker brings, measured on this machine with one thread a worker.

Trains the quick start's network for a few hundred steps by train_net.py and by cluster/train.py, in turns,
and prints images a second. Draws its scenes first; needs a machine that is otherwise idle.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from qiml.errors import check_counts, exit_on_error
from qiml.io import atomic_write_text

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
CHANGES = (
    *("SOLVER.IMS_PER_BATCH", BATCH, "DATALOADER.NUM_WORKERS", 0),
    *("DATASETS.TEST", "()", "TEST.PRECISE_BN.ENABLED", False, "SOLVER.CHECKPOINT_PERIOD", 10**6),
)
KINDS = {
    "train_net.py": 1,
    "cluster/train.py, 1 worker": 1,
    "cluster/train.py, 2 workers": 2,
}


def images_per_second(kind: str, workers: int, steps: int, scratch: Path) -> float:
    """Of all workers together: median over a run's steps but for the first hundred."""
    output = scratch / "runs" / kind.replace("/", "_").replace(" ", "_")
    shutil.rmtree(output, ignore_errors=True)
    script = kind.split(",")[0]
    if script == "train_net.py":
        options = []
        changes, metrics = ("OUTPUT_DIR", output), output / "metrics.json"
    else:
        options = ["--cpu", "--cpus-per-worker", 1, "--num-workers", workers]
        options += ["--storage-path", output.parent, "--name", output.name]
        changes, metrics = (), output / "output" / "metrics.json"
    command = [sys.executable, script, "--config-file", "configs/quickstart.yaml", *options]
    command += [*CHANGES, "SOLVER.MAX_ITER", steps, *changes]
    log = scratch / "log.txt"
    with log.open("w") as file:
        finished = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(scratch)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if finished.returncode:
        sys.exit(f"{kind} failed:\n{log.read_text()[-3000:]}")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    rates = [x["images_per_second_per_worker"] for x in lines if x["iteration"] >= 100]
    return workers * statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--steps", type=int, default=300, help="of each run, > 120 (default: 300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args()
    check_counts(args, rounds=1, steps=121)
    rates = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        scenes = [sys.executable, "tools/make_synthetic.py", "--out", str(scratch / "synthetic")]
        subprocess.run([*scenes, "--train", "400", "--val", "8"], cwd=ROOT, check=True)
        with tqdm(total=args.rounds * len(KINDS), desc="runs") as progress:
            for _ in range(args.rounds):
                for kind, workers in KINDS.items():
                    rates[kind].append(images_per_second(kind, workers, args.steps, scratch))
                    progress.update()
    reference = statistics.mean(rates["train_net.py"])
    print(f"\nimages/s, batch {BATCH}, one thread a worker; mean ± std of {args.rounds} runs")
    for kind, values in rates.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.mean(values)
        print(f"{kind:30}{mean:8.1f} ± {spread:4.1f}   {mean / reference:5.2f} × train_net.py")
    if args.json:
        atomic_write_text(args.json, json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    with exit_on_error():
        main()
