"""What is wrong with a data set, and how bad that is."""

from dataclasses import dataclass

from qiml.errors import DatasetError

ERROR, WARNING = "error", "warning"
"""Training would fail, or learn something else than what the images show; or it would suffer in part."""

CHECKS = {
    "files": "frames",
    "images": "images",
    "duplicates": "images",
    "splits": "splits",
    "calibration": "frames",
    "labels": "objects",
    "2D boxes": "objects",
    "projection": "objects",
    "sizes": "objects",
    "depths": "objects",
    "headings": "objects",
}
"""Name of each check → what it looks at."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        check: a key of `CHECKS`.
        severity: `ERROR` or `WARNING`.
        dataset: its name.
        message: file and place, what was found, what was expected, how to mend it.
        frame: its id; "" where it is about the data set.
        badness: how far off, 0 to 1; chooses the frames to draw.
    """

    check: str
    severity: str
    dataset: str
    message: str
    frame: str = ""
    badness: float = 1.0


def warning(
    check: str,
    dataset: str,
    where: str,
    *,
    found: str,
    expected: str,
    mend: str,
    severity: str = WARNING,
    **place,
) -> Problem:
    """A problem whose message reads like the errors of this project; `place`: frame and badness."""
    message = str(DatasetError(where, found=found, expected=expected, mend=mend))
    return Problem(check, severity, dataset, message, **place)
