"""The tables of a report: each row names a run, so that runs stand below each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qiml.data.waymo_format import CLASS_TYPES
from qiml.evaluation.waymo_report import TITLES
from qiml.evaluation.waymo_rules import LEVELS, RANGES, TYPES
from qiml.visualization.report_run import Run

_METRIC_NAMES = {"2d": "2D box", "aos": "orientation", "bev": "bird's-eye view", "3d": "3D box"}
_SETTINGS = (
    ("data", "DATASETS.TRAIN"),
    ("head", "MODEL.BOX3D_HEAD.NAME"),
    ("backbone", "MODEL.BACKBONE.TIMM_NAME"),
    ("quasi-isometric loss", "MODEL.QUASI_ISOMETRIC.ENABLED"),
    ("other metric loss", "MODEL.CONTRASTIVE.NAME"),
    ("object-depth head", "MODEL.OBJECT_DEPTH.ENABLED"),
    ("input", "INPUT.SIZE"),
    ("iterations", "SOLVER.MAX_ITER"),
    ("batch", "SOLVER.IMS_PER_BATCH"),
    ("learning rate", "SOLVER.BASE_LR"),
    ("seed", "SEED"),
)


@dataclass(frozen=True)
class Cell:
    """A number or a text of a table.

    Attributes:
        text: as shown.
        best: whether it is the best of the compared runs.
        change: difference to the first run, as shown; "" for none.
        better: whether that difference is to the good.
    """

    text: str
    best: bool = False
    change: str = ""
    better: bool = False


@dataclass(frozen=True)
class Table:
    """Rows to show, and what they are.

    Attributes:
        title, note: above the table.
        header: names of the columns.
        rows: of as many cells.
        heads: columns, from the left, that name what a row is about.
        group: rows, of different runs, that belong together.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]]
    heads: int
    group: int = 1


def settings_table(runs: Sequence[Run]) -> Table:
    """What the runs are: a row for each setting, a column for each run."""
    rows = []
    for label, key in _SETTINGS:
        values = [run.setting(key) for run in runs]
        if any(value is not None for value in values):
            rows.append([Cell(label), *(Cell(_setting_text(value)) for value in values)])
    for label, metric in (
        ("images/s per worker", "images_per_second_per_worker"),
        ("total loss, last", "total_loss"),
    ):
        last = [_last(run, metric) for run in runs]
        if any(value is not None for value in last):
            rows.append([Cell(label), *(Cell(_number(value)) for value in last)])
    rows.append([Cell("folder"), *(Cell(str(run.folder)) for run in runs)])
    return Table("Settings", "", ["", *(run.name for run in runs)], rows, heads=1)


def kitti_tables(runs: Sequence[Run], dataset: str) -> list[Table]:
    """Average precision by difficulty and depth, strict and relaxed, and depth errors, of one data set."""
    found = [(run.name, run.kitti[dataset]) for run in runs if dataset in run.kitti]
    tables = [_precision_table(found, prefix) for prefix in ("", "relaxed_")]
    return [*(table for table in tables if table), _depth_table(found)]


def waymo_table(runs: Sequence[Run], name: str) -> Table:
    """Waymo's measures of one data set and protocol, by level and range."""
    found = [(run.name, run.waymo[name]) for run in runs if name in run.waymo]
    protocol = found[0][1]["protocol"]
    measures = ("AP", "APH", "APL") if protocol == "let" else ("AP", "APH")
    header = ["class", "level", "IoU ≥", "run"]
    header += [f"{measure} {part}" for measure in measures for part in ("all", *RANGES)]
    rows = []
    for kind in (TYPES[number] for number in CLASS_TYPES):
        limit = found[0][1]["iou"].get(kind)
        if limit is None:
            continue
        for level in LEVELS:
            keys = [f"OBJECT_TYPE_TYPE_{kind}", *(f"RANGE_TYPE_{kind}_{part}" for part in RANGES)]
            values = [
                [
                    _percent(report["results"].get(f"{key}_LEVEL_{level}", {}).get(measure))
                    for measure in measures
                    for key in keys
                ]
                for _, report in found
            ]
            heads = [kind.capitalize(), str(level), f"{limit:g}"]
            rows += _compared(heads, [name for name, _ in found], values)
    title = TITLES.get(protocol, protocol)
    return Table(
        title, f"{found[0][1]['frames']} frames; per cent", header, rows, heads=4, group=len(found)
    )


def _precision_table(found: Sequence[tuple[str, dict]], prefix: str) -> Table | None:
    reports = [report for _, report in found if f"{prefix}results" in report]
    if not reports:
        return None
    levels = list(dict.fromkeys(level for report in reports for level in report["order"]))
    ranges = reports[0].get(f"{prefix}results_by_range", {}).get("order", [])
    rows = []
    for name, limits in reports[0][f"{prefix}min_overlap"].items():
        for metric, title in _METRIC_NAMES.items():
            values = [
                _averages(report.get(f"{prefix}results"), report["order"], name, metric, levels)
                + _averages(report.get(f"{prefix}results_by_range"), ranges, name, metric, ranges)
                for _, report in found
            ]
            if any(value is not None for row in values for value in row):
                heads = [name, title, f"{limits[metric]:g}"]
                rows += _compared(heads, [run for run, _ in found], values)
    title = f"Average precision, {'relaxed' if prefix else 'strict'} overlaps"
    at_levels = " or ".join(dict.fromkeys(report["order"][-1] for report in reports))
    note = f"AP40 in per cent over {reports[0]['frames']} frames; distances at level {at_levels}"
    header = ["class", "of", "IoU >", "run", *levels, *ranges]
    return Table(title, note, header, rows, heads=4, group=len(found))


def _depth_table(found: Sequence[tuple[str, dict]]) -> Table:
    columns = {
        "objects": None,
        "matched": max,
        "mean": min,
        "median": min,
        "bias": lambda values: min(values, key=abs),
        "relative": min,
    }
    names = list(dict.fromkeys(name for _, report in found for name in report["depth_errors"]))
    rows = []
    for name in names:
        errors = [report["depth_errors"].get(name, {}) for _, report in found]
        for part in dict.fromkeys(part for own in errors for part in own):
            values = [[own.get(part, {}).get(column) for column in columns] for own in errors]
            runs = [run for run, _ in found]
            rows += _compared([name, part], runs, values, list(columns.values()))
    note = "metres, where the 2D boxes overlap by more than 0.5; relative in per cent of the depth"
    header = ["class", "distance", "run", *columns]
    return Table("Depth errors", note, header, rows, heads=3, group=len(found))


def _compared(
    heads: list[str],
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    best_of: Sequence[Callable | None] | None = None,
) -> list[list[Cell]]:
    """Rows of one quantity, a run each: (R, C) values; `best_of` picks the best of a column's values."""
    picks = [max] * len(values[0]) if best_of is None else best_of
    columns = [
        _column(own, pick) for own, pick in zip(zip(*values, strict=True), picks, strict=True)
    ]
    return [
        [*(Cell(head) for head in heads), Cell(name), *(column[i] for column in columns)]
        for i, name in enumerate(names)
    ]


def _column(values: Sequence[float | None], pick: Callable | None) -> list[Cell]:
    """Cells of one number in several runs."""
    known = [value for value in values if value is not None]
    if pick is None or len(known) < 2 or len(set(known)) == 1:
        return [Cell(_number(value)) for value in values]
    best, first = pick(known), values[0]
    cells = []
    for i, value in enumerate(values):
        change, better = "", False
        if i and value is not None and first is not None and value != first:
            step = value - first
            change = f"{step:+d}" if isinstance(step, int) else f"{step:+.2f}"
            better = pick([value, first]) == value
        cells.append(Cell(_number(value), value == best, change.replace("-", "−"), better))
    return cells


def _averages(
    results: dict | None, order: Sequence[str], name: str, metric: str, wanted: Sequence[str]
) -> list[float | None]:
    """AP40 at the levels wanted; None where the run has no such level or detected nothing of the class."""
    values = (results or {}).get(name, {}).get("AP40", {}).get(metric) or []
    by_level = dict(zip(order, values, strict=False))
    return [by_level.get(level) for level in wanted]


def _last(run: Run, metric: str) -> float | None:
    return run.metrics[metric][1][-1] if metric in run.metrics else None


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
    return text.replace("-", "−")


def _setting_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        numbers = all(isinstance(item, int) for item in value)
        return (" × " if numbers else ", ").join(map(str, value))
    return "–" if value in (None, "") else str(value)
