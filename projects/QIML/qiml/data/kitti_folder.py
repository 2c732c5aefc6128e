"""Folders in KITTI's layout: which frames a split has, and where their files lie.

::

    ROOT/ImageSets/{train,val,trainval,test}.txt    one frame id a line, such as 000042
    ROOT/training/image_2/000042.png                or .jpg, .jpeg
    ROOT/training/label_2/000042.txt                the folder is absent when there are no labels
    ROOT/training/calib/000042.txt
    ROOT/training/depth_dense/000042.png            optional (see qiml.data.depth_map)
    ROOT/testing/{image_2,calib}/...                read for the split "test"
"""

from pathlib import Path

from qiml.data.kitti_format import read_lines
from qiml.errors import DatasetError
from qiml.io import visible_files

_EXTENSIONS = (".png", ".jpg", ".jpeg")
_LONGEST_ID = 200
_ID_LIST = "a list of different frame ids, one a line"
_LAYOUT = (
    "a folder in KITTI's layout: training/{image_2,label_2,calib}, testing/{image_2,calib}, "
    "ImageSets/{train,val,trainval,test}.txt"
)
_MEND = (
    "for KITTI, download left colour images, labels and calibration from '3D object detection' at "
    "https://www.cvlibs.net/datasets/kitti into datasets/kitti, with the ImageSets of the Chen "
    "split (MonoDLE's repository has them), or point DETECTRON2_DATASETS at the folder that holds "
    "'kitti'; for other data, correct the path"
)


class KITTISplit:
    """The frames of one split of a folder in KITTI's layout.

    Args:
        root: folder that holds `training` or `testing`, and `ImageSets`.
        split: name of a list in `ImageSets`. "test" reads `testing`, every other split `training`;
            "all" without a list stands for every image.

    Attributes:
        image_ids: frame ids, in the list's order.
        label_dir: folder of the labels, or None when the split has none.
        ambiguous: ids with several images, of which the last by name is taken.

    Raises:
        DatasetError: the folder or the split's list is missing, empty or has a frame twice.
    """

    def __init__(self, root: str | Path, split: str):
        root = Path(root)
        self.folder = root / ("testing" if split == "test" else "training")
        image_dir = self.folder / "image_2"
        if not image_dir.is_dir():
            raise DatasetError(image_dir, found="no such folder", expected=_LAYOUT, mend=_MEND)
        files = [f for f in visible_files(image_dir) if f.suffix.lower() in _EXTENSIONS]
        self._images = {file.stem: file for file in files}
        self.ambiguous = [file.stem for file in files if self._images[file.stem] != file]
        label_dir = self.folder / "label_2"
        self.label_dir = label_dir if split != "test" and label_dir.is_dir() else None
        id_file = root / "ImageSets" / f"{split}.txt"
        if split == "all" and not id_file.exists():
            self.image_ids = list(self._images)
        else:
            self.image_ids = read_image_ids(id_file)

    def image_file(self, image_id: str) -> Path:
        """Path of a frame's image. Raises DatasetError when there is none."""
        if image_id not in self._images:
            raise DatasetError(
                self.folder / "image_2" / f"{image_id}.png",
                found="no such file",
                expected=f"the image of frame {image_id} as .png, .jpg or .jpeg",
                mend="add the image, or remove the frame from the ImageSets list",
            )
        return self._images[image_id]

    def calibration_file(self, image_id: str) -> Path:
        """Where a frame's calibration lies."""
        return self.folder / "calib" / f"{image_id}.txt"

    def label_file(self, image_id: str) -> Path | None:
        """Where a frame's labels lie, or None when the split has none."""
        return self.label_dir / f"{image_id}.txt" if self.label_dir else None

    def depth_file(self, image_id: str) -> Path | None:
        """A frame's dense depth map, or None when it has none."""
        file = self.folder / "depth_dense" / f"{image_id}.png"
        return file if file.is_file() else None


def read_image_ids(path: str | Path) -> list[str]:
    """Read a list of frame ids, one a line; ids are kept as text, so zeros in front stay.

    Raises:
        DatasetError: the list is missing or empty, names a frame twice, or has a line that cannot be an id.
    """
    if not Path(path).is_file():
        raise DatasetError(path, found="no such file", expected=_ID_LIST, mend=_MEND)
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        image_id = line.strip()
        if not image_id:
            continue
        found = ""
        is_name = Path(image_id).name == image_id and len(image_id.split()) == 1
        if not is_name or len(image_id) > _LONGEST_ID:
            found = f"'{image_id}'"
        elif image_id in lines:
            found = f"frame {image_id} again (first in line {lines[image_id]})"
        if found:
            raise DatasetError(
                f"{path}:{number}",
                found=found,
                expected=_ID_LIST,
                mend="correct or delete the line",
            )
        lines[image_id] = number
    if not lines:
        raise DatasetError(
            path, found="no frames", expected=_ID_LIST, mend="list the split's frames"
        )
    return list(lines)
