"""What a run left in its folder, read for a report."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qiml.data.documents import read_document
from qiml.errors import DatasetError

_METRICS = "metrics.json"
_NO_ENTRY = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
_KITTI_KEYS = {"frames", "order", "results", "min_overlap", "depth_errors", "curves"}
_WAYMO_KEYS = {"protocol", "iou", "frames", "results"}
_RETRY = "evaluate the run: python train_net.py --config-file … --resume --eval-only OUTPUT_DIR {}"

Curve = tuple[list[int], list[float | None]]


@dataclass(frozen=True, eq=False)
class Run:
    """One training or evaluation.

    Attributes:
        folder: its OUTPUT_DIR.
        name: short, unlike those of the other runs of a report.
        config: nested, as in the run's config.yaml; empty where there is none.
        metrics: name → iterations and values, as in metrics.json; None for what is not finite.
        kitti: data set, as in file names → content of its kitti_DATASET.json.
        waymo: data set and protocol → content of waymo_DATASET_PROTOCOL.json.
    """

    folder: Path
    name: str
    config: dict
    metrics: dict[str, Curve]
    kitti: dict[str, dict]
    waymo: dict[str, dict]

    def setting(self, key: str, default: object = None) -> object:
        """Value of a config key such as "SOLVER.MAX_ITER"."""
        node: object = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read several runs and give each a name of its own; otherwise as :func:`read_run`.

    Raises:
        DatasetError: also for a folder given twice.
    """
    runs = [read_run(folder) for folder in folders]
    parts = [run.folder.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise DatasetError(
            next(run.folder for run, own in zip(runs, parts, strict=True) if parts.count(own) > 1),
            found="the same folder twice",
            expected="different runs to compare",
            mend="name each folder once",
        )
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return [
        replace(run, name="/".join(own[-length:])) for run, own in zip(runs, parts, strict=True)
    ]


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run that has been evaluated.

    Raises:
        DatasetError: no such folder, a file that is not what its name says, or no evaluation.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(
            folder,
            found="no such folder",
            expected="OUTPUT_DIR of a run",
            mend="check the path; a run prints its OUTPUT_DIR when it starts",
        )
    run = Run(
        folder,
        name=folder.resolve().name,
        config=_read_config(folder / "config.yaml"),
        metrics=read_metrics(folder / _METRICS),
        kitti=_read_evaluations(folder, "kitti", _KITTI_KEYS),
        waymo=_read_evaluations(folder, "waymo", _WAYMO_KEYS),
    )
    if not run.kitti and not run.waymo:
        is_run = bool(run.metrics or run.config)
        raise DatasetError(
            folder,
            found="a run that has not been evaluated" if is_run else "a folder that is no run",
            expected="kitti_DATASET.json or waymo_DATASET_PROTOCOL.json, which an evaluation writes",
            mend=_RETRY.format(folder) if is_run else "give the OUTPUT_DIR of a run",
        )
    return run


def read_metrics(path: Path) -> dict[str, Curve]:
    """Name → iterations and values of a metrics.json; empty where there is no such file.

    A torn last line, as a run that is being written has, is left out.

    Raises:
        DatasetError: another line is not a JSON object with a number as `iteration`.
    """
    if not path.is_file():
        return {}
    curves: dict[str, Curve] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            iteration = int(entry.pop("iteration"))
        except _NO_ENTRY as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise DatasetError(
                f"{path}:{number}",
                found=f"'{line.strip()[:40]}'",
                expected="one JSON object with an iteration",
                mend="delete the line",
            ) from error
        for name, value in entry.items():
            if isinstance(value, int | float):
                iterations, values = curves.setdefault(name, ([], []))
                iterations.append(iteration)
                values.append(value if math.isfinite(value) else None)
    return curves


def _read_config(path: Path) -> dict:
    if not path.is_file():
        return {}
    config = read_document(
        path,
        expected="the config that the run wrote",
        mend="restore the file, or delete it and do without the settings",
    )
    return config if isinstance(config, dict) else {}


def _read_evaluations(folder: Path, kind: str, keys: set[str]) -> dict[str, dict]:
    """Content of the files KIND_NAME.json by NAME."""
    found = {}
    wanted = {
        "expected": f"what the evaluation writes: {', '.join(sorted(keys))}",
        "mend": _RETRY.format(folder),
    }
    for path in sorted(folder.glob(f"{kind}_*.json")):
        content = read_document(path, **wanted)
        if not isinstance(content, dict) or keys - content.keys():
            missing = sorted(keys - content.keys()) if isinstance(content, dict) else ()
            raise DatasetError(
                path, found=f"no entry {missing[0]}" if missing else "no JSON object", **wanted
            )
        found[path.stem.removeprefix(f"{kind}_")] = content
    return found
