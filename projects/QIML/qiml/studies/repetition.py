"""A repetition beside the results it repeats: does it fall where runs with other seeds should?"""

from qiml.studies.page import (
    DETECTION,
    UNKNOWN,
    Results,
    markdown_table,
    measures_by_variant,
    values_by_seed,
)
from qiml.studies.statistics import differences_by_seed, repeat_interval, spread
from qiml.studies.study import Study

COLUMNS = tuple(column for column in DETECTION if column.compared)
_INTRODUCTION = (
    "Means of these runs, of seeds that the results repeated do not have, and in brackets where the mean of "
    "as many should fall by those results (95 % prediction interval by Student's t):"
)

Runs = dict[str, dict[int, dict]]


def render_repetition(study: Study, repeated: Results, stated: Results) -> str:
    """Tables that set runs beside earlier ones of the same configs.

    Args:
        study: names the variants and the one they are compared with.
        repeated: the new runs.
        stated: those they repeat, of the same groups and variants.

    Returns:
        Markdown, a table a group; "" where there is no new seed to set beside two earlier runs.
    """
    parts = []
    for group in study.groups:
        mine, theirs = measures_by_variant(repeated, group), measures_by_variant(stated, group)
        rows = [row for variant in study.variants for row in _rows(study, mine, theirs, variant)]
        if rows:
            parts += [f"#### {group}"] if len(study.groups) > 1 else []
            parts.append(markdown_table([column.title for column in COLUMNS], rows))
    return "\n\n".join(["### The repetition", _INTRODUCTION, *parts]) + "\n" if parts else ""


def _rows(study: Study, mine: Runs, theirs: Runs, variant: str) -> list[list[str]]:
    """A variant's means and, where both have the baseline, its differences to that."""

    def values(runs: Runs, key: str) -> dict[int, float]:
        return values_by_seed(runs, variant, key)

    def differences(runs: Runs, key: str) -> dict[int, float]:
        return differences_by_seed(values(runs, key), values_by_seed(runs, study.baseline, key))

    measured = [(f"`{variant}`", values, "")]
    if variant != study.baseline:
        measured.append((f"`{variant}` − `{study.baseline}`", differences, "+"))
    rows = []
    for title, find, sign in measured:
        numbers = [(find(mine, c.key), find(theirs, c.key), f"{sign}.{c.digits}f") for c in COLUMNS]
        rows.append([title, *(_cell(*number) for number in numbers)])
    return [row for row in rows if set(row[1:]) != {UNKNOWN}]


def _cell(mine: dict[int, float], theirs: dict[int, float], number: str) -> str:
    """As "14.95 (13.36 to 16.36)"; `number` is a format."""
    new = [value for seed, value in mine.items() if seed not in theirs]
    if not new or len(theirs) < 2:
        return UNKNOWN
    mean = spread(new).mean
    low, high = repeat_interval(list(theirs.values()), len(new))
    found = f"{mean:{number}}" if low <= mean <= high else f"**{mean:{number}}, outside**"
    return f"{found} ({low:{number}} to {high:{number}})"
