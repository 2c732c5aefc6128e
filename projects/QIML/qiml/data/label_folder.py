"""KITTI's label or result files of single frames, whatever split they are of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qiml.data.kitti import KITTI_CLASSES
from qiml.data.kitti_format import COLUMNS, KITTIObjects, read_lines, read_objects
from qiml.errors import DatasetError
from qiml.io import visible_files


class LabelFolder:
    """Objects of frames by their ids.

    Args:
        folder: holds ID.txt, each of labels (15 columns) or of results (16).
        class_names: of the objects to read; None takes every class of the folder's files but DontCare.

    Attributes:
        class_names: as given; or as found, KITTI's three first.

    Raises:
        DatasetError: there is no such folder, or nothing in it.
    """

    def __init__(self, folder: str | Path, class_names: Sequence[str] | None = None):
        self.folder = Path(folder)
        files = visible_files(self.folder, "*.txt")
        if not files:
            raise DatasetError(
                folder,
                found="no .txt files" if self.folder.is_dir() else "no such folder",
                expected="a folder with a label or result file for each frame",
                mend="check the path",
            )
        if class_names is None:
            found = {line.split()[0] for file in files for line in _objects_of(file)}
            named = [name for name in KITTI_CLASSES if name in found]
            class_names = named + sorted(found - {*named, "DontCare"})
        self.class_names = list(class_names)

    def __call__(self, frame_id: str) -> KITTIObjects:
        """A frame's objects that have a 3D box, under the names of `class_names`.

        Raises:
            DatasetError: the frame has no file, or a malformed one.
        """
        path = self.folder / f"{frame_id}.txt"
        first = next(iter(_objects_of(path)), "")
        scored = len(first.split()) == len(COLUMNS) + 1
        objects = read_objects(path, scored, known_types=None)
        names = {name.lower(): name for name in self.class_names}
        types = np.array([names.get(name.lower(), "") for name in objects.types], dtype=str)
        kept = (types != "") & (objects.dimensions > 0).all(axis=1)
        return KITTIObjects(types, objects.values)[kept]


def _objects_of(path: Path) -> list[str]:
    return [line for line in read_lines(path) if line.strip()]
