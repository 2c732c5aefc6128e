"""Frames that train and evaluate: they must not be the same."""

from collections.abc import Iterator, Sequence

from qiml.data.kitti_folder import read_image_ids
from qiml.doctor.problems import Problem, warning
from qiml.doctor.survey import Survey
from qiml.errors import DatasetError
from qiml.io import visible_files

_SHOWN = 3


def check_splits(surveys: Sequence[Survey]) -> list[Problem]:
    """Compare each split with the others of its folder, whether they are checked themselves or not.

    By name: what has "train" in it with what has "val" in it; "trainval" is both, and with none compared.
    """
    problems, done = [], set()
    for survey in surveys:
        own = {frame.scene for frame in survey.frames}
        for split, scenes in _other_splits(survey):
            pair = (survey.root.resolve(), *sorted((survey.split, split)))
            if {_role(survey.split), _role(split)} != {"train", "val"} or pair in done:
                continue
            done.add(pair)
            if shared := sorted(own & scenes):
                problems.append(
                    warning(
                        "splits",
                        survey.name,
                        str(survey.root),
                        found=f"{len(shared)} of {survey.split} in {split}, too: "
                        f"{', '.join(shared[:_SHOWN])}{', …' if shared[_SHOWN:] else ''}",
                        expected="no frame in both: results would be those of learning by heart",
                        mend="take them out of one list",
                    )
                )
    return problems


def _role(split: str) -> str:
    return "+".join(name for name in ("train", "val") if name in split.lower())


def _other_splits(survey: Survey) -> Iterator[tuple[str, set[str]]]:
    """Name and scenes of the other splits beside one; lists that do not read are their own split's matter."""
    if survey.kind == "waymo":
        for folder in visible_files(survey.root):
            if folder.is_dir() and (segments := visible_files(folder, "*.jsonl")):
                yield folder.name, {part.stem for part in segments}
        return
    for path in visible_files(survey.root / "ImageSets", "*.txt"):
        try:
            yield path.stem, set(read_image_ids(path))
        except DatasetError:
            continue
