"""The page of results: tables in Markdown from the records of studies."""

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from qiml.errors import ConfigError
from qiml.studies.statistics import PairedDifference, paired_difference, spread
from qiml.studies.study import Cell, Study

UNKNOWN = "n/a"
NOT_SIGNIFICANT = "no significant difference"


@dataclass(frozen=True)
class Column:
    """A measure as the tables show it.

    Args:
        key: in the records.
        title: with its unit.
        digits: after the decimal point.
        compared: also show the paired difference to the baseline.
        lower_is_better: so of an error.
    """

    key: str
    title: str
    digits: int
    compared: bool = False
    lower_is_better: bool = False


DETECTION = (
    Column("ap3d_0.3", "AP3D .3", 2, compared=True),
    Column("ap3d_0.5", "AP3D .5", 2, compared=True),
    Column("ap3d_0.7", "AP3D .7", 2),
    Column("depth_mae", "depth error, m", 3, compared=True, lower_is_better=True),
    # Who finds fewer cars finds the easy ones: a depth error is read beside this.
    Column("recall_2d", "found, %", 1, compared=True),
)
# An error that falls on the whole may rise where few cars are.
BY_DISTANCE = (
    Column("depth_mae_0-20", "0 to 20 m", 3),
    Column("depth_mae_20-40", "20 to 40 m", 3),
    Column("depth_mae_40+", "40 m and more", 3),
    Column("depth_bias", "bias", 3),
    Column("depth_mae_calibrated", "calibrated", 3),
    Column("ap3d_0.3_calibrated", "AP3D .3, calibrated", 2),
    Column("ap3d_0.5_calibrated", "AP3D .5, calibrated", 2),
)
MANIFOLD = (
    Column("inside", "pairs inside the bounds", 3),
    Column("too_close", "too close", 3),
    Column("too_far", "too far", 3),
    Column("spearman_local", "Spearman, local pairs", 3),
    Column("geodesic_spearman", "Spearman, geodesic", 3),
    Column("geodesic_ratio", "geodesic / Euclidean", 2),
    Column("knn_depth_error", "10-NN depth error, m", 3),
)

DESCRIPTORS = {
    "neck": "means of neck features",
    "roi": "features pooled in the 2D box",
    "depth": "hidden layer of the depth branch",
}

Results = dict[Cell, dict]


def render_study(study: Study, results: Results, command: str) -> str:
    """What a study found, as a section of the page."""
    parts = [f"## {study.title}", study.about.strip(), _circumstances(study, results, command)]
    for group in study.groups:
        values = measures_by_variant(results, group)
        if not values:
            continue
        if len(study.groups) > 1:
            parts.append(f"### {group}")
        parts.append(_table(study, values, _known(DETECTION, values), _spread_cells))
        # What the baseline's runs have not measured, nothing can be compared with.
        baseline = {study.baseline: values.get(study.baseline, {})}
        compared = tuple(c for c in _known(DETECTION, baseline) if c.compared)
        parts += _under(
            f"Differences to `{study.baseline}`, paired by seed: mean [95 % bootstrap interval], in how "
            "many seeds the measure rose (0 of 5: it fell in all, as an error should).",
            _table(study, values, compared, _difference_cells),
        )
        by_distance = _known(BY_DISTANCE, baseline)
        parts += _under(
            f"Depth error by the car's distance, and its bias (detected − true), m: of `{study.baseline}`, "
            "then the differences to it.",
            _table(study, values, by_distance, _spread_or_difference_cells),
        )
        features = []
        for kind, title in DESCRIPTORS.items():
            of_kind = tuple(replace(c, key=f"{kind}_{c.key}") for c in MANIFOLD)
            table = _table(study, values, _known(of_kind, values), _spread_cells)
            features += _under(f"Of {title}:", table)
        parts += _folded("Feature space at the evaluation's objects", features)
    return "\n\n".join(part for part in parts if part) + "\n"


def _under(text: str, table: str) -> list[str]:
    """A table with what says what it is; nothing without a table."""
    return [text, table] if table else []


def _folded(title: str, parts: list[str]) -> list[str]:
    """What not everybody reads: a browser shows it where the title is clicked on."""
    summary = f"<details><summary>{title}</summary>"
    return [summary, *parts, "</details>"] if parts else []


def replace_section(page: str, study: Study, section: str) -> str:
    """Put a section between its markers; a new one after the last section, else at the end of the page.

    Raises:
        ConfigError: of its two markers one alone is there.
    """
    begin, end = f"<!-- study {study.name} -->", f"<!-- end of {study.name} -->"
    block = f"{begin}\n{section}{end}"
    if (begin in page) != (end in page):
        raise ConfigError(
            "the page",
            found=f"{begin if begin in page else end} alone",
            expected=f"{begin} and {end}, or neither",
            mend="put the other marker back, or remove this one",
        )
    if begin in page:
        return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.S)
    before, last, after = page.rpartition("<!-- end of ")
    if not last:
        return f"{page.rstrip()}\n\n{block}\n"
    name, after = after.split("-->", 1)
    return f"{before}{last}{name}-->\n\n{block}{after}"


def _circumstances(study: Study, results: Results, command: str) -> str:
    seconds = [record["seconds"] for record in results.values() if record["seconds"]]
    minutes = (
        f"{statistics.median(seconds) / 60:.1f} minutes a run (median)"
        if seconds
        else "minutes unknown"
    )
    return (
        f"Command: `{command}`. Data: {_data(study)}. Finished: {len(results)} of {study.size} runs, "
        f"seeds {_listed(sorted({cell.seed for cell in results}))}; {minutes}, on {_machines(results)}."
    )


def _data(study: Study) -> str:
    text = ", ".join(f"{key} {value}" for key, value in study.data.identity.items())
    counts = {group.train_frames for group in study.groups.values() if group.train_frames}
    if not counts:
        return text
    first = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else max(counts)
    return f"{text}, of which the first {first} train"


def _machines(results: Results) -> str:
    """What the runs were computed on; of all but the most frequent also which variants."""
    variants: dict[str, list[str]] = {}
    for cell, record in results.items():
        machine = f"{record['machine']}, {record['threads']} thread(s) a run"
        variants.setdefault(machine, []).append(f"`{cell.variant}`")
    first, *others = sorted(variants, key=lambda machine: -len(variants[machine]))
    named = (f"{machine} ({', '.join(dict.fromkeys(variants[machine]))})" for machine in others)
    return "; ".join([first, *named])


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def measures_by_variant(results: Results, group: str) -> dict[str, dict[int, dict]]:
    """Variant → seed → measures."""
    values: dict[str, dict[int, dict]] = {}
    for cell, record in results.items():
        if cell.group == group:
            values.setdefault(cell.variant, {})[cell.seed] = record["measures"]
    return values


def values_by_seed(runs: dict[str, dict[int, dict]], variant: str, key: str) -> dict[int, float]:
    """Seed → one measure of a variant, where the run has it."""
    found = {seed: measures.get(key) for seed, measures in runs.get(variant, {}).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _table(
    study: Study,
    values: dict[str, dict[int, dict]],
    columns: tuple[Column, ...],
    cells: Callable[..., list[str] | None],
) -> str:
    """A row for each variant that has runs; `cells` fills it and says by None that it has none.

    Without a row, or a column, no table: "".
    """
    rows = []
    for variant in study.variants:
        row = cells(study, values, variant, columns) if variant in values else None
        if row:
            rows.append([f"`{variant}`", *row])
    if not (rows and columns):
        return ""
    return markdown_table([*(column.title for column in columns), "seeds"], rows)


def markdown_table(titles: list[str], rows: list[list[str]]) -> str:
    """A table whose first column, what each row is about, has no title."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|", *lines])


def _known(columns: tuple[Column, ...], values: dict[str, dict[int, dict]]) -> tuple[Column, ...]:
    """Those that some run has measured: what is measured has grown since the first studies."""
    measured = {key for runs in values.values() for measures in runs.values() for key in measures}
    return tuple(column for column in columns if column.key in measured)


def _spread_cells(study: Study, values, variant: str, columns) -> list[str]:
    cells, count = [], len(values[variant])
    for column in columns:
        found = values_by_seed(values, variant, column.key)
        text = _spread_text(list(found.values()), column.digits) if found else UNKNOWN
        cells.append(text + (f" ({len(found)} seeds)" if 0 < len(found) < count else ""))
    return [*cells, str(count)]


def _spread_text(found: list[float], digits: int) -> str:
    s = spread(found)
    return f"{s.mean:.{digits}f}" + (f" ± {s.std:.{digits}f}" if s.std is not None else "")


def _difference_cells(study: Study, values, variant: str, columns) -> list[str] | None:
    if variant == study.baseline or study.baseline not in values:
        return None
    cells, count = [], 0
    for column in columns:
        difference = paired_difference(
            values_by_seed(values, variant, column.key),
            values_by_seed(values, study.baseline, column.key),
        )
        cells.append(_difference_text(difference, column.digits) if difference else UNKNOWN)
        count = max(count, difference.count if difference else 0)
    return [*cells, str(count)]


def _spread_or_difference_cells(study: Study, values, variant: str, columns) -> list[str] | None:
    cells = _spread_cells if variant == study.baseline else _difference_cells
    return cells(study, values, variant, columns)


def _difference_text(d: PairedDifference, digits: int) -> str:
    if d.low is None:
        return f"{d.mean:+.{digits}f}"
    text = (
        f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}], {d.higher} of {d.count}"
    )
    return f"**{text}**" if d.significant else f"{text}; {NOT_SIGNIFICANT}"
