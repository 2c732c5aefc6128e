"""Paired differences of a study as a picture: one dot a seed, the mean with its interval."""

from pathlib import Path

from qiml.evaluation.figure import check_picture
from qiml.io import atomic_path
from qiml.studies.page import DETECTION, Column, Results, measures_by_variant, values_by_seed
from qiml.studies.statistics import differences_by_seed, paired_difference
from qiml.studies.study import Study


def plot_differences(study: Study, results: Results, path: str | Path) -> bool:
    """Draw a row of panels for each group: a panel for each compared measure, a line for each variant.

    A significant difference is green where it is for the better, red where it is for the worse.

    Args:
        study, results: what is drawn.
        path: picture to write; the extension chooses the format.

    Returns:
        False, without a picture, where no variant shares a seed with the baseline.
    """
    columns = [column for column in DETECTION if column.compared]
    variants = [name for name in study.variants if name != study.baseline]
    groups = [
        group
        for group in study.groups
        if len(measures_by_variant(results, group)) > 1
        and study.baseline in measures_by_variant(results, group)
    ]
    if not groups:
        return False
    check_picture(path)
    from matplotlib.figure import Figure  # draws without a display and without global state

    height = (0.32 * len(variants) + 1.0) * len(groups)
    figure = Figure(figsize=(3.6 * len(columns), height), layout="constrained")
    panels = figure.subplots(len(groups), len(columns), squeeze=False, sharey=True)
    for row, group in zip(panels, groups, strict=True):
        for axes, column in zip(row, columns, strict=True):
            title = f"{group}: {column.title}" if len(study.groups) > 1 else column.title
            axes.set(title=title, xlabel=f"difference to {study.baseline}")
            axes.set_yticks(range(len(variants)), variants)
            axes.set_ylim(len(variants) - 0.5, -0.5)
            axes.axvline(0, color="0.5", linewidth=1)
            axes.grid(axis="x", alpha=0.3)
            _draw_variants(axes, measures_by_variant(results, group), study, variants, column)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def _draw_variants(axes, runs, study: Study, variants: list[str], column: Column) -> None:
    base = values_by_seed(runs, study.baseline, column.key)
    for height, variant in enumerate(variants):
        values = values_by_seed(runs, variant, column.key)
        difference = paired_difference(values, base)
        if difference is None:
            continue
        dots = [*differences_by_seed(values, base).values()]
        axes.plot(dots, [height] * len(dots), "o", color="C0", alpha=0.4, markersize=4)
        if difference.low is not None:
            better = (difference.mean < 0) == column.lower_is_better
            color = ("C2" if better else "C3") if difference.significant else "0.3"
            axes.plot([difference.low, difference.high], [height] * 2, color=color, linewidth=2)
        axes.plot(difference.mean, height, "|", color="black", markersize=10)
