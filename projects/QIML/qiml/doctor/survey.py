"""All that the files of a split say, but for its pixels, in arrays; what does not read becomes a problem."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from qiml.data.catalog import register_datasets
from qiml.data.images import read_image_size
from qiml.data.kitti_folder import KITTISplit
from qiml.data.kitti_format import KITTIObjects, read_calibration, read_objects
from qiml.data.waymo import WAYMO_CLASSES, frame_dict
from qiml.data.waymo_format import read_part
from qiml.doctor.problems import ERROR, Problem
from qiml.errors import ConfigError, DatasetError
from qiml.evaluation.kitti_table import ObjectTable
from qiml.io import visible_files

T = TypeVar("T")
_UNKNOWN_SIZE, _UNKNOWN_CAMERA = (0, 0), np.full((3, 4), np.nan)


class Frame(NamedTuple):
    """One image and its labels.

    Attributes:
        id: of the image.
        image: file, or FILE.parquet#ROW; "" where there is none.
        size: (height, width) in pixels; zeros where it is unknown.
        projection: (3, 4); nan where there is none.
        camera: name of the camera, where there are several.
        calibration: where the projection is.
        labels: where the labels are.
        scene: what must not be in two splits: the frame itself, or the segment it is from.
        objects: with the original class names.
    """

    id: str
    image: str
    size: tuple[int, int]
    projection: np.ndarray
    camera: str
    calibration: str
    labels: str
    scene: str
    objects: KITTIObjects


@dataclass(eq=False)
class Survey:
    """A split.

    Attributes:
        name, kind: of the data set; "kitti" or "waymo".
        root, split: where it is.
        classes: that train.
        frames: all that are listed, without their objects.
        sizes: (F, 2) height and width.
        projections: (F, 3, 4).
        table: the objects of all frames.
        problems: of the files.
    """

    name: str
    kind: str
    root: Path
    split: str
    classes: tuple[str, ...]
    frames: list[Frame] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        objects = [frame.objects for frame in self.frames]
        self.table = ObjectTable.from_frames(objects, scored=False)
        self.sizes = np.array([f.size for f in self.frames], dtype=float).reshape(-1, 2)
        self.projections = np.array([f.projection for f in self.frames]).reshape(-1, 3, 4)

    @property
    def is_labelled(self) -> bool:
        """Whether objects are to be expected."""
        return self.split != "test"

    @property
    def real(self) -> np.ndarray:
        """(N,) mask of the objects that are no DontCare regions."""
        return ~self.table.of_types("DontCare")


def survey(name: str) -> Survey:
    """Read a data set by its name in the catalogue (:func:`qiml.data.catalog.register_datasets`).

    Raises:
        ConfigError: there is no such name, or not even a folder.
    """
    register_datasets([name])
    metadata = MetadataCatalog.get(name)
    root = Path(metadata.root)
    if not root.is_dir():
        raise ConfigError(
            root,
            found="no such folder",
            expected=f"the data of {name}",
            mend="correct the name, or let DETECTRON2_DATASETS be the folder above",
        )
    problems: list[Problem] = []

    def complain(check: str, error: DatasetError, frame: str = "") -> None:
        problems.append(Problem(check, ERROR, name, str(error), frame))

    if metadata.evaluator_type == "waymo":
        frames = _waymo_frames(root, metadata.split, metadata.cameras, complain)
    else:
        frames = _kitti_frames(root, metadata.split, complain)
    classes = tuple(metadata.thing_classes)
    kind = metadata.evaluator_type
    return Survey(name, kind, root, metadata.split, classes, list(frames), problems)


Complain = Callable[[str, DatasetError, str], None]


def _kitti_frames(root: Path, split: str, complain: Complain) -> Iterator[Frame]:
    try:
        frames = KITTISplit(root, split)
    except DatasetError as error:
        complain("files", error, "")
        return
    if split != "test" and frames.label_dir is None:
        error = DatasetError(
            frames.folder / "label_2",
            found="no such folder",
            expected="the labels of the split",
            mend="add the folder, or call the split test",
        )
        complain("files", error, "")
    for image_id in frames.ambiguous:
        error = DatasetError(
            frames.image_file(image_id),
            found="another image of the same frame beside it",
            expected="one image for each frame",
            mend="remove one of them",
        )
        complain("duplicates", error, image_id)
    for image_id in _progress(frames.image_ids, f"{root.name} {split}"):
        yield _kitti_frame(frames, image_id, complain)


def _kitti_frame(frames: KITTISplit, image_id: str, complain: Complain) -> Frame:
    def attempt(check: str, default: T, read: Callable[..., T], *arguments) -> T:
        try:
            return read(*arguments)
        except DatasetError as error:
            complain(check, error, image_id)
            return default

    image = attempt("files", None, frames.image_file, image_id)
    width, height = attempt("images", _UNKNOWN_SIZE, read_image_size, image) if image else (0, 0)
    if (width, height) == _UNKNOWN_SIZE:  # told; nothing more can be seen of it
        image = None
    calibration, labels = frames.calibration_file(image_id), frames.label_file(image_id)
    objects = KITTIObjects.empty()
    if labels:
        objects = attempt("labels", objects, _read_labels, labels, image_id, complain)
    return Frame(
        id=image_id,
        image=str(image or ""),
        size=(height, width),
        projection=attempt("calibration", _UNKNOWN_CAMERA, read_calibration, calibration),
        camera="",
        calibration=str(calibration),
        labels=str(labels or ""),
        scene=image_id,
        objects=objects,
    )


def _read_labels(path: Path, image_id: str, complain: Complain) -> KITTIObjects:
    """As training reads them, but going on behind a malformed line."""
    return read_objects(path, False, on_error=lambda error: complain("labels", error, image_id))


def _waymo_frames(
    root: Path, split: str, cameras: Iterable[str], complain: Complain
) -> Iterator[Frame]:
    folder = root / split
    parts = visible_files(folder, "*.jsonl")
    if not parts:
        error = DatasetError(
            folder,
            found="no prepared segments",
            expected="SEGMENT.jsonl files",
            mend="run tools/prepare_waymo.py",
        )
        complain("files", error, "")
    for part in _progress(parts, f"{root.name} {split}", "segment"):
        try:
            for line, frame in enumerate(read_part(part)[1], start=2):
                for camera in cameras:
                    if camera in frame.images:
                        item = frame_dict(folder, frame, camera, split != "test")
                        yield _waymo_frame(item, f"{part}:{line}", part.stem, complain)
        except DatasetError as error:
            complain("labels", error, "")


def _waymo_frame(item: dict, labels: str, scene: str, complain: Complain) -> Frame:
    image = item["file_name"]
    if "://" not in image and not Path(image.partition("#")[0]).is_file():
        error = DatasetError(
            image, found="no such file", expected="an image", mend="prepare the segment again"
        )
        complain("files", error, item["image_id"])
        image = ""
    annotations = item.get("annotations", ())
    objects = KITTIObjects.from_boxes(
        [WAYMO_CLASSES[annotation["category_id"]] for annotation in annotations],
        np.array([annotation["box3d"] for annotation in annotations]),
        bbox=np.array([annotation["bbox"] for annotation in annotations]).reshape(-1, 4),
        alpha=np.array([annotation["alpha"] for annotation in annotations]),
        truncation=0,
        occlusion=0,
    )
    return Frame(
        id=item["image_id"],
        image=image,
        size=(item["height"], item["width"]),
        projection=np.array(item["camera"]),
        camera=item["waymo"]["camera"],
        calibration=labels,  # in the same line
        labels=labels,
        scene=scene,
        objects=objects,
    )


def _progress(items: list, name: str, unit: str = "frame") -> Iterable:
    return tqdm(items, unit=unit, desc=f"reading {name}")
