#!/usr/bin/env python
"""Run a study: a grid of configs and seeds, its statistics and its section of docs/results.md."""

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path

from qiml.errors import ConfigError, QIMLError, check_counts, exit_on_error
from qiml.io import atomic_write_text
from qiml.studies.page import render_study, replace_section
from qiml.studies.plot import plot_differences
from qiml.studies.records import finished
from qiml.studies.repetition import render_repetition
from qiml.studies.runner import in_processes, on_ray, run_study, visible_gpus
from qiml.studies.study import Cell, Study, load_study

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"

EXAMPLES = """\
A finished run is never done again, also where another study has it: its result is a line of
--results/STUDY.jsonl. Killed at any moment, the same command goes on: unfinished runs from their last
checkpoint. A run whose config or data the study file has changed since counts as another one.

Examples:

    $ python tools/ablate.py configs/studies/main.yaml                 # everything that is missing
    $ python tools/ablate.py configs/studies/main.yaml --list          # what is done, what is not
    $ python tools/ablate.py configs/studies/main.yaml --render        # the page alone, no run
    $ python tools/ablate.py configs/studies/main.yaml --compare qi_log_branch   # which of two is better?

Repeat one row with seeds of your own, kept apart from the project's results and set beside them:
    $ python tools/ablate.py configs/studies/main.yaml --results output/mine --seeds 7 8 --variants \\
          qi_log_branch

On a Ray cluster (nodes with this project at the same place), as many runs at once as it has CPUs for:
    $ python tools/ablate.py configs/studies/main.yaml --ray auto
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="a file such as those in configs/studies/")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="show what is done; run nothing")
    action.add_argument("--render", action="store_true", help="write the page; run nothing")
    action.add_argument(
        "--compare",
        metavar="VARIANT",
        help="print the tables with differences to this variant; run and write nothing",
    )
    parser.add_argument("--groups", nargs="+", help="only these groups of the study")
    parser.add_argument("--variants", nargs="+", help="only these variants of the study")
    parser.add_argument("--seeds", nargs="+", type=int, help="these seeds instead of the study's")
    parser.add_argument(
        "--jobs", type=int, help="runs at once (default: one a GPU, without GPUs one a core)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads a run (default 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on this Ray cluster, such as `auto`")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="folder of the results, one file a study (default docs/results)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        help="page to write the tables to (default: results.md beside the folder of the results)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/studies"),
        help="the runs themselves: logs, checkpoints (default output/studies)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    with exit_on_error():
        check_counts(args, jobs=1, threads=1)
        study = load_study(args.study).part(args.groups, args.variants, args.seeds)
        records = args.results / f"{study.name}.jsonl"
        if args.list:
            print_progress(study, records)
            return
        if args.compare:
            results = kept_results(study, records)
            print(render_study(study.against(args.compare), results, describe_command(args)))
            return
        errors = [] if args.render else run_missing(study, records, args)
        if errors and not finished(study.cells(), records.parent):
            sys.exit(1)
        page = args.page or args.results.resolve().with_name("results.md")
        write_page(study, kept_results(study, records), args, page)
        if errors:
            sys.exit(1)


def run_missing(study: Study, records: Path, args: argparse.Namespace) -> list[QIMLError]:
    """Run what is not finished; prints and returns the errors of what failed."""
    where = {"output_root": args.output, "threads": args.threads}
    if args.ray:
        run_all = partial(on_ray, address=args.ray, **where)
    else:
        jobs = args.jobs or len(visible_gpus()) or os.cpu_count()
        run_all = partial(in_processes, jobs=jobs, **where)
    errors = run_study(study, records, run_all)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return errors


def print_progress(study: Study, records: Path) -> None:
    """Every run and whether it is finished."""
    cells = study.cells()
    done = finished(cells, records.parent)
    for cell in cells:
        print(f"{'done' if cell in done else '-':6}{cell.name}")
    print(f"{len(done)} of {len(cells)} runs finished")


def describe_command(args: argparse.Namespace) -> str:
    """The command that makes the runs of a page."""
    command = ["python", "tools/ablate.py", str(args.study)]
    for name in ("groups", "variants", "seeds"):
        if chosen := getattr(args, name):
            command += [f"--{name}", *map(str, chosen)]
    if args.results != RESULTS:
        command += ["--results", str(args.results)]
    return shlex.join(command)


def kept_results(study: Study, records: Path) -> dict[Cell, dict]:
    """Results of the finished runs.

    Raises:
        ConfigError: no run is finished.
    """
    results = finished(study.cells(), records.parent)
    if not results:
        raise ConfigError(
            records,
            found="no finished run of this study",
            expected="at least one",
            mend="leave --render or --compare out, so that it runs",
        )
    return results


def repetition(study: Study, results: dict[Cell, dict], args: argparse.Namespace) -> str:
    """Results kept apart from the project's, beside the project's of the same configs."""
    if args.results.resolve() == RESULTS:
        return ""
    stated = load_study(args.study).part(args.groups, args.variants)
    return render_repetition(study, results, finished(stated.cells(), RESULTS))


def write_page(
    study: Study, results: dict[Cell, dict], args: argparse.Namespace, page: Path
) -> None:
    """Put the study's tables and picture into the page, and what they repeat below."""
    section = render_study(study, results, describe_command(args))
    beside = repetition(study, results, args)
    print(section, beside, sep="\n")
    picture = page.parent / "images" / f"results-{study.name}.png"
    if plot_differences(study, results, picture):
        section += f"\n![Paired differences by seed](images/{picture.name})\n"
    section += f"\n{beside}" if beside else ""
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    atomic_write_text(page, replace_section(text, study, section))
    print(f"Wrote {page}")


if __name__ == "__main__":
    main()
