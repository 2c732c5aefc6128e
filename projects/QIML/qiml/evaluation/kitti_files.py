"""Which files of a label folder and a result folder belong together."""

from collections.abc import Sequence
from pathlib import Path

from qiml.errors import DatasetError
from qiml.evaluation.kitti_table import ObjectTable, read_table
from qiml.io import visible_files

_SHOWN = 5  # ids named in a message


def read_folders(
    label_dir: str | Path,
    result_dir: str | Path,
    ids: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> tuple[ObjectTable, ObjectTable]:
    """Read the labels and results of a split, in the order of the ids; otherwise as :func:`pair_files`.

    Raises:
        DatasetError: also for a malformed line.
    """
    labels, results = zip(*pair_files(label_dir, result_dir, ids, allow_missing), strict=True)
    return read_table(labels, scored=False), read_table(results, scored=True)


def pair_files(
    label_dir: str | Path,
    result_dir: str | Path,
    ids: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> list[tuple[str, str | None]]:
    """The label file and the result file of each frame of a split.

    Args:
        label_dir: folder of ID.txt, 15 columns each.
        result_dir: folder of ID.txt, 16 columns each; or the folder above, if they lie in its
            `data`.
        ids: frames to read; None takes all that have labels.
        allow_missing: take a missing result file for a frame without detections.

    Returns:
        Paths in the order of the ids; None for a missing result file that is allowed.

    Raises:
        DatasetError: an empty or missing folder, missing files, results of frames not in `ids`, or two
            files of the same frame.
    """
    labels = _text_files(Path(label_dir))
    nested = Path(result_dir) / "data"
    results = _text_files(nested if nested.is_dir() else Path(result_dir))
    ids = sorted(labels) if ids is None else list(ids)
    _require(
        not (unlabelled := [name for name in ids if name not in labels]),
        label_dir, unlabelled, "without label file", "a label file for each id",
        "correct the ids or the label folder",
    )  # fmt: skip
    _require(
        not (strangers := sorted(results.keys() - set(ids))),
        result_dir, strangers, "with results that are not to be evaluated",
        "results of the split's frames only",
        "choose the right split (--ids), or take the other files away",
    )  # fmt: skip
    missing = [name for name in ids if name not in results]
    _require(
        allow_missing or not missing,
        result_dir, missing, "without result file",
        "a file for each frame, empty where nothing was detected",
        "choose the split that was detected (--ids), write the missing files, or count them as "
        "empty (--allow-missing)",
    )  # fmt: skip
    return [(labels[name], results.get(name)) for name in ids]


def _require(
    fulfilled: bool, folder: str | Path, names: list[str], what: str, expected: str, mend: str
) -> None:
    if not fulfilled:
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        found = f"{len(names)} frame{'s' if len(names) > 1 else ''} {what}: {shown}"
        raise DatasetError(folder, found=found, expected=expected, mend=mend)


def _text_files(folder: Path) -> dict[str, str]:
    """Frame id → path of the .txt files in a folder."""
    if not folder.is_dir():
        raise DatasetError(
            folder, found="no such folder", expected="a folder of .txt files", mend="check the path"
        )
    files = {path.stem: str(path) for path in visible_files(folder, "*.txt")}
    if not files:
        raise DatasetError(
            folder,
            found="no .txt files",
            expected="a file for each frame",
            mend="check the path, or whether the detector has run",
        )
    numbers: dict[int, str] = {}
    for name in filter(str.isdecimal, files):
        other = numbers.setdefault(int(name), name)
        if other != name:
            raise DatasetError(
                folder,
                found=f"{other}.txt and {name}.txt, two files of one frame",
                expected="one file for each frame",
                mend="remove one of them",
            )
    return files
