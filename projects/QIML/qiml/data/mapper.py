"""From a dataset dict to the model's input."""

import math

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from qiml.data.augmentation import (
    PHOTOMETRIC,
    Warp,
    evaluation_warp,
    pad_image,
    random_warp,
    warp_image,
)
from qiml.data.depth_map import read_depth_map
from qiml.data.images import read_image
from qiml.errors import ConfigError, DatasetError
from qiml.structures.boxes3d import Boxes3D, wrap_angle
from qiml.structures.camera import Camera


class MonocularMapper:
    """Reads the image, warps image, boxes and camera by one affine, and keeps the objects that train.

    Args:
        input_size: (width, height) of the network's input.
        augmentation: probabilities and ranges of :func:`random_warp`; None in evaluation.
        photometric: probability of random colours.
        crop_depth: "ignore", "virtual" or "metric": what a crop does to 3D supervision.
        min_height, max_truncation, max_occlusion, min_depth, max_depth: which objects train.
        category_ids: categories that train.
        least_points: category → LiDAR points that an object must exceed for 3D supervision, where the
            data count them; None for no such filter.
        resize: "fit": images are scaled to the input's width; "pad": they keep their pixels.
        pad_colour: RGB of the input to the right of and below an image that keeps its pixels.
        photometric_form: a name of ``PHOTOMETRIC``.
        dense_depth: whether to give the frame's dense depth map along, in training.
    """

    @configurable
    def __init__(
        self,
        *,
        input_size: tuple[int, int],
        augmentation: dict[str, float] | None,
        photometric: float,
        crop_depth: str,
        min_height: float,
        max_truncation: float,
        max_occlusion: int,
        min_depth: float,
        max_depth: float,
        category_ids: frozenset[int],
        least_points: dict[int, int] | None = None,
        resize: str = "fit",
        pad_colour: tuple[int, int, int] = (0, 0, 0),
        photometric_form: str = "jitter",
        dense_depth: bool = False,
    ):
        self.input_size = input_size
        self.resize, self.pad_colour = resize, pad_colour
        self.distort = PHOTOMETRIC[photometric_form]
        self.augmentation = augmentation
        self.photometric = photometric
        self.crop_depth = crop_depth
        self.min_height = min_height
        self.max_truncation, self.max_occlusion = max_truncation, max_occlusion
        self.min_depth, self.max_depth = min_depth, max_depth
        self.least_points = least_points or {}
        self.category_ids = category_ids
        self.dense_depth = dense_depth

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        augmentation, kept = cfg.INPUT.AUGMENTATION, cfg.INPUT.FILTER
        return {
            "input_size": tuple(cfg.INPUT.SIZE),
            "augmentation": {
                "flip": augmentation.FLIP,
                "crop": augmentation.CROP,
                "crop_scale": augmentation.CROP_SCALE,
                "crop_shift": augmentation.CROP_SHIFT,
                "shift": augmentation.SHIFT,
                "shift_pixels": augmentation.SHIFT_PIXELS,
            }
            if is_train
            else None,
            "photometric": augmentation.PHOTOMETRIC if is_train else 0.0,
            "crop_depth": augmentation.CROP_DEPTH,
            "min_height": kept.MIN_HEIGHT,
            "max_truncation": kept.MAX_TRUNCATION,
            "max_occlusion": kept.MAX_OCCLUSION,
            "min_depth": kept.MIN_DEPTH,
            "max_depth": kept.MAX_DEPTH,
            "least_points": _least_points(cfg) if is_train else {},
            "category_ids": _training_categories(cfg) if is_train else frozenset(),
            "resize": cfg.INPUT.RESIZE,
            "pad_colour": tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN),
            "photometric_form": augmentation.PHOTOMETRIC_FORM,
            "dense_depth": is_train and cfg.MODEL.BOX3D_HEAD.VISUAL_DEPTH == "dense",
        }

    def check(self, dataset_dict: dict) -> None:
        """Whether a frame has all that is needed of it; raises DatasetError where it has not."""
        if self.dense_depth and "depth_file_name" not in dataset_dict:
            raise DatasetError(
                dataset_dict["file_name"],
                found="an image without a dense depth map",
                expected="depth_dense/ID.png beside the folder image_2, since "
                'MODEL.BOX3D_HEAD.VISUAL_DEPTH is "dense"',
                mend='add the maps (docs/datasets.md), or set it to "box"',
            )

    def __call__(self, dataset_dict: dict, rng: np.random.Generator | None = None) -> dict:
        """The model's input for one frame (see :meth:`MonocularDetector3D.forward`).

        Args:
            dataset_dict: Detectron2's standard form; not changed.
            rng: the sample's own generator; None in evaluation.
        """
        image = read_image(dataset_dict["file_name"])
        height, width = image.shape[:2]
        if (height, width) != (dataset_dict["height"], dataset_dict["width"]):
            raise DatasetError(
                dataset_dict["file_name"],
                found=f"{width}×{height} pixels",
                expected=f"{dataset_dict['width']}×{dataset_dict['height']} as when the data set was read",
                mend="do not change images while a run reads them",
            )
        return self.map_image(image, dataset_dict, rng)

    def map_image(
        self, image: np.ndarray, dataset_dict: dict, rng: np.random.Generator | None = None
    ) -> dict:
        """The same for an image in memory, such as a video's frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            dataset_dict, rng: as for calling; `file_name` only names the image in messages.
        """
        height, width = image.shape[:2]
        result = {
            key: value
            for key, value in dataset_dict.items()
            if key not in ("annotations", "camera")
        }
        frame = self.frame_size((width, height), dataset_dict["file_name"])
        if self.augmentation is None:
            warp = evaluation_warp((width, height), frame)
        else:
            warp = random_warp(rng, (width, height), frame, **self.augmentation)
        pixels = warp_image(image, warp, frame)
        if self.photometric and rng.random() < self.photometric:
            pixels = self.distort(rng, pixels)
        if frame != self.input_size:
            pixels = pad_image(pixels, self.input_size, self.pad_colour)

        camera = Camera(torch.tensor(dataset_dict["camera"], dtype=torch.float64))
        camera = camera.flip(width) if warp.flip else camera
        affine = torch.from_numpy(warp.affine)
        result["image"] = torch.from_numpy(pixels).permute(2, 0, 1)
        result["camera"] = camera.warp(affine).projection.float()
        result["affine"] = affine.float()
        if self.augmentation is not None:
            objects = [a for a in dataset_dict.get("annotations", ()) if self.trains(a)]
            instances = self.make_instances(objects, warp, camera, width)
            if self.dense_depth:
                depth = read_depth_map(dataset_dict["depth_file_name"], (width, height))
                depth = pad_image(warp_image(depth, warp, frame), self.input_size, 0)
                result["dense_depth"] = torch.from_numpy(depth)
            result["instances"] = clip_objects(instances, frame) if warp.shifted else instances
        return result

    def frame_size(self, image_size: tuple[int, int], file_name: str) -> tuple[int, int]:
        """(width, height) of the input's part that an image fills.

        Raises:
            DatasetError: the image does not fit.
        """
        if self.resize == "fit":
            return self.input_size
        if image_size[0] > self.input_size[0] or image_size[1] > self.input_size[1]:
            raise DatasetError(
                file_name,
                found=f"{image_size[0]}×{image_size[1]} pixels",
                expected=f"at most INPUT.SIZE, {self.input_size[0]}×{self.input_size[1]}, since INPUT.RESIZE "
                'is "pad"',
                mend='enlarge INPUT.SIZE (multiples of 32), or set INPUT.RESIZE to "fit"',
            )
        return image_size

    def trains(self, annotation: dict) -> bool:
        """Whether an object is clear enough to learn from: MonoDLE's level ≠ "UnKnown" and depth range."""
        x1, y1, x2, y2 = annotation["bbox"]
        return (
            annotation["category_id"] in self.category_ids
            and not annotation.get("ignore", False)
            and y2 - y1 + 1 >= self.min_height
            and x2 > x1
            and annotation["truncation"] <= self.max_truncation
            and annotation["occlusion"] <= self.max_occlusion
            and self.min_depth <= annotation["box3d"][2] <= self.max_depth
        )

    def shows_3d(self, annotation: dict) -> bool:
        """Whether enough LiDAR points lie on an object for its depth, size and offset to train."""
        points = annotation.get("num_lidar_points", math.inf)
        return points > self.least_points.get(annotation["category_id"], -1)

    def make_instances(
        self, objects: list[dict], warp: Warp, camera: Camera, width: int
    ) -> Instances:
        """Training objects in the pixels of the input and the (mirrored) camera frame.

        Args:
            objects: annotations, in the original image.
            warp: of the original image.
            camera: of the mirrored, not yet warped image.
            width: of the original image.
        """
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float64).reshape(-1, 4)
        boxes3d = Boxes3D(torch.tensor([a["box3d"] for a in objects], dtype=torch.float64))
        alpha = torch.tensor([a["alpha"] for a in objects], dtype=torch.float64)
        if warp.flip:
            boxes = torch.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1
            )
            boxes3d, alpha = boxes3d.flip(), wrap_angle(math.pi - alpha)
        affine = torch.from_numpy(warp.affine)
        centres, depth = camera.warp(affine).project(boxes3d.centres)
        corners = boxes.reshape(-1, 2, 2) @ affine[:, :2].T + affine[:, 2]
        apparent_depth = depth / warp.magnification
        has_3d = not warp.cropped or self.crop_depth != "ignore"
        return Instances(
            (self.input_size[1], self.input_size[0]),
            gt_boxes=Boxes(corners.reshape(-1, 4).float()),
            gt_classes=torch.tensor([a["category_id"] for a in objects], dtype=torch.int64),
            gt_boxes3d=boxes3d.to(torch.float32),
            gt_projected_centres=centres.float(),
            gt_depth=(apparent_depth if self.crop_depth == "virtual" else depth).float(),
            gt_apparent_depth=apparent_depth.float(),
            gt_alpha=alpha.float(),
            gt_has_3d=torch.tensor(
                [has_3d and self.shows_3d(a) for a in objects], dtype=torch.bool
            ),
            # The input's camera and affine, once an object: for heads that need more than the labels.
            gt_cameras=camera.warp(affine).projection.float().expand(len(objects), 3, 4),
            gt_affines=affine.float().expand(len(objects), 2, 3),
        )


def clip_objects(instances: Instances, frame: tuple[int, int]) -> Instances:
    """Objects with their 2D boxes clipped to (width, height); without those of which a pixel or less is left.

    Source: MonoCon `RandomShiftMonoCon`.
    """
    boxes = instances.gt_boxes
    boxes.clip((frame[1], frame[0]))
    return instances[boxes.nonempty(threshold=1.0)]


def _classes(cfg) -> list[str]:
    if not cfg.DATASETS.TRAIN:
        raise ConfigError(
            "DATASETS.TRAIN",
            found="no data set",
            expected="at least one: it says which classes there are",
            mend="name one, such as ('kitti_train',)",
        )
    return list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)


def _least_points(cfg) -> dict[int, int]:
    points, classes = list(cfg.INPUT.FILTER.LIDAR_POINTS), _classes(cfg)
    if points and len(points) != len(classes):
        raise ConfigError(
            "INPUT.FILTER.LIDAR_POINTS",
            found=str(points),
            expected=f"a number for each of the data set's classes {classes}",
            mend="correct the numbers, or set () for no such filter",
        )
    return dict(enumerate(points))


def _training_categories(cfg) -> frozenset[int]:
    classes = _classes(cfg)
    if cfg.MODEL.BOX3D_HEAD.NUM_CLASSES < len(classes):
        raise ConfigError(
            "MODEL.BOX3D_HEAD.NUM_CLASSES",
            found=str(cfg.MODEL.BOX3D_HEAD.NUM_CLASSES),
            expected=f"{len(classes)}, one for each of the data set's classes {classes}",
            mend="correct the number; INPUT.FILTER.CLASSES picks which of them train",
        )
    for name in cfg.INPUT.FILTER.CLASSES:
        if name not in classes:
            raise ConfigError(
                "INPUT.FILTER.CLASSES",
                found=repr(name),
                expected=f"names among {classes}",
                mend="correct the name, or set () to train all classes",
            )
    return frozenset(classes.index(name) for name in cfg.INPUT.FILTER.CLASSES or classes)
