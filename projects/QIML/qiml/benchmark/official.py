"""The reference: the same network and losses, run as official code of CenterNet's family runs them.

Float32 in NCHW order; every branch over the whole map, the object-depth head's and the descriptors' pooling
too; images normalised and targets built on the host, object by object, into 50 slots an image. Written for
the comparison from what those programs do (MonoDLE, DDML-M3DOD); nothing else uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor, nn

from qiml.data.augmentation import Warp, random_warp
from qiml.data.mapper import MonocularMapper
from qiml.losses import heatmap_focal_loss, laplacian_uncertainty_loss
from qiml.modeling.box3d.centre_head import CentrePredictions
from qiml.modeling.decode import inverse_sigmoid_depth
from qiml.modeling.detector import MonocularDetector3D
from qiml.modeling.targets import ObjectTargets, gaussian_radius
from qiml.structures.camera import Camera

MAX_OBJECTS = 50
DESCRIPTOR_SIZE = 5
SLOTS = {
    "mask": ((), bool),
    "classes": ((), np.int64),
    "cells": ((2,), np.int64),
    "projected_centres": ((2,), np.float32),
    "boxes2d": ((4,), np.float32),
    "depth": ((), np.float32),
    "dimensions": ((3,), np.float32),
    "yaw": ((), np.float32),
    "alpha": ((), np.float32),
    "has_3d": ((), bool),
}
"""Shape and type of what is kept of an object."""


@dataclass(frozen=True)
class HostTargets:
    """Targets of a batch as arrays of slots, joined from those of its images.

    Attributes:
        heatmap: (B, classes, H, W).
        depth_map: (B, 4 · H, 4 · W) metres, painted.
        mask: (B, 50) bool; slots that hold an object.
        columns: {name: (B, 50, …)}, of `ObjectTargets`.
    """

    heatmap: Tensor
    depth_map: Tensor
    mask: Tensor
    columns: dict[str, Tensor]

    def to(self, device: torch.device) -> "HostTargets":
        """The same on another device."""
        whole = (self.heatmap.to(device), self.depth_map.to(device), self.mask.to(device))
        return HostTargets(*whole, {name: x.to(device) for name, x in self.columns.items()})

    def objects(self) -> ObjectTargets:
        """What the slots hold, flat."""
        columns = {name: column[self.mask] for name, column in self.columns.items()}
        count = len(columns["depth"])
        return ObjectTargets(
            **columns,
            image_index=self.mask.nonzero()[:, 0],
            apparent_depth=columns["depth"],
            cameras=Camera(torch.zeros(count, 3, 4)),
            affines=torch.zeros(count, 2, 3),
            num_images=len(self.mask),
            map_size=tuple(self.heatmap.shape[-2:]),
        )


def host_image(path: str, warp: Warp, input_size: tuple[int, int], mean, std) -> np.ndarray:
    """(3, H, W) float32, normalised, by Pillow and NumPy."""
    image = Image.open(path)
    if warp.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    inverse = np.linalg.inv(np.vstack([warp.affine, [0, 0, 1]]))[:2]
    image = image.transform(
        input_size, Image.Transform.AFFINE, tuple(inverse.flatten()), Image.Resampling.BILINEAR
    )
    pixels = np.array(image).astype(np.float32)
    return ((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)


def draw_gaussian(heatmap: np.ndarray, x: int, y: int, radius: int) -> None:
    """One object's truncated Gaussian on a map (H, W), in place."""
    height, width = heatmap.shape
    offsets = np.arange(-radius, radius + 1)
    sigma = (2 * radius + 1) / 6
    blob = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    window = heatmap[y - top : y + bottom, x - left : x + right]
    np.maximum(
        window, blob[radius - top : radius + bottom, radius - left : radius + right], out=window
    )


def host_targets(
    instances: Instances, stride: int, map_size: tuple[int, int], num_classes: int
) -> dict[str, np.ndarray]:
    """Slots, heat map and painted depth of one image, object by object."""
    height, width = map_size
    heatmap = np.zeros((num_classes, height, width), np.float32)
    depth_map = np.zeros((height * stride, width * stride), np.float32)
    slots = {name: np.zeros((MAX_OBJECTS, *shape), dtype) for name, (shape, dtype) in SLOTS.items()}
    centres, classes, depth, alpha, has_3d = (
        instances.get(f"gt_{name}").numpy()
        for name in ("projected_centres", "classes", "depth", "alpha", "has_3d")
    )
    boxes, boxes3d = instances.gt_boxes.tensor.numpy(), instances.gt_boxes3d.tensor.numpy()
    for index in range(min(len(instances), MAX_OBJECTS)):
        centre = centres[index] / stride
        x, y = centre.astype(np.int64)
        if not (0 <= x < width and 0 <= y < height):
            continue
        box = boxes[index] / stride
        radius = int(gaussian_radius(*torch.from_numpy(box[2:] - box[:2])))
        draw_gaussian(heatmap[classes[index]], x, y, radius)
        values = {
            "mask": True,
            "classes": classes[index],
            "cells": (x, y),
            "projected_centres": centre,
            "boxes2d": box,
            "depth": depth[index],
            "dimensions": boxes3d[index, 3:6],
            "yaw": boxes3d[index, 6],
            "alpha": alpha[index],
            "has_3d": has_3d[index],
        }
        for name, value in values.items():
            slots[name][index] = value
    for index in np.argsort(-depth):  # near objects over far ones
        if has_3d[index]:
            x1, y1, x2, y2 = np.maximum(boxes[index].round(), 0).astype(int)
            depth_map[y1:y2, x1:x2] = depth[index]
    return {"heatmap": heatmap, "depth_map": depth_map, **slots}


class HostLoader:
    """Batches as the official loaders make them, of the frames and random warps of ours.

    Args:
        mapper: of training; says which objects train, and how images are warped.
        stride, num_classes: of the map.
        mean, std: of the pixels.
    """

    def __init__(self, mapper: MonocularMapper, stride: int, num_classes: int, mean, std):
        self.mapper, self.stride, self.num_classes = mapper, stride, num_classes
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def sample(self, frame: dict, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
        """Image (3, H, W) float32 and targets of a frame."""
        mapper, size = self.mapper, (frame["width"], frame["height"])
        warp = random_warp(rng, size, mapper.input_size, **mapper.augmentation)
        image = host_image(frame["file_name"], warp, mapper.input_size, self.mean, self.std)
        camera = Camera(torch.tensor(frame["camera"], dtype=torch.float64))
        camera = camera.flip(frame["width"]) if warp.flip else camera
        objects = [a for a in frame["annotations"] if mapper.trains(a)]
        instances = mapper.make_instances(objects, warp, camera, frame["width"])
        width, height = mapper.input_size
        map_size = (height // self.stride, width // self.stride)
        return image, host_targets(instances, self.stride, map_size, self.num_classes)

    def batch(self, frames: list[dict]) -> tuple[Tensor, HostTargets]:
        """Images (B, 3, H, W) and targets; sample i draws from a generator seeded by i."""
        samples = [self.sample(f, np.random.default_rng(i)) for i, f in enumerate(frames)]
        images = torch.from_numpy(np.stack([image for image, _ in samples]))
        arrays = {
            name: torch.from_numpy(np.stack([targets[name] for _, targets in samples]))
            for name in samples[0][1]
        }
        whole = {name: arrays.pop(name) for name in ("heatmap", "depth_map", "mask")}
        return images, HostTargets(**whole, columns=arrays)


class OfficialStyle(nn.Module):
    """A detector with a `MonoDLEHead`, run the official way.

    Args:
        detector: its weights are taken over, its branches are read here.
    """

    def __init__(self, detector: MonocularDetector3D):
        super().__init__()
        self.detector = detector
        head = detector.box3d_head
        self.branches = {name: head.get_submodule(name) for name in head.regression_channels}
        self.branches["heatmap"] = head.heatmap
        if detector.object_depth_head is not None:
            self.branches["object_depth"] = detector.object_depth_head.branch
        # The head's own decoding, reading maps that are there already.
        head.regress = read_maps

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Normalised images (B, 3, H, W) to the neck's output and the map of every branch."""
        features = self.detector.neck(self.detector.backbone(images))
        return features, {name: branch(features) for name, branch in self.branches.items()}

    def losses(
        self, features: Tensor, maps: dict[str, Tensor], targets: HostTargets
    ) -> dict[str, Tensor]:
        """The detector's terms, the metric loss in its official form."""
        head, objects = self.detector.box3d_head, targets.objects()
        at_objects = read_maps(maps, objects.image_index, objects.cells)
        losses = {
            "loss_heatmap": heatmap_focal_loss(maps["heatmap"], targets.heatmap),
            **head.regression_losses(at_objects, objects),
        }
        if "object_depth" in maps:
            losses["loss_object_depth"] = _object_depth_loss(
                maps["object_depth"], targets.depth_map
            )
        criterion = self.detector.metric_loss
        if criterion is not None:
            pooled = F.avg_pool2d(features, DESCRIPTOR_SIZE, 1, DESCRIPTOR_SIZE // 2)
            rows = objects.supervised
            (x, y), image_index = objects.cells[rows].T, objects.image_index[rows]
            losses["loss_metric"] = criterion.weight * literal_quasi_isometric_loss(
                pooled[image_index, :, y, x],
                objects.depth[rows],
                *(criterion.k, criterion.b, criterion.epsilon, criterion.temperature),
            )
        return losses

    def detect(self, images: Tensor, batch: list[dict]) -> list[Instances]:
        """Detections in normalised images; cameras, affines and sizes are the batch's."""
        _, maps = self(images)
        return self.detector.box3d_head.inference(
            CentrePredictions(maps["heatmap"], maps),
            Camera(torch.stack([x["camera"] for x in batch]).to(images.device)),
            torch.stack([x["affine"] for x in batch]).to(images.device),
            [(x["height"], x["width"]) for x in batch],
        )


def read_maps(maps: Mapping[str, Tensor], image_index: Tensor, cells: Tensor) -> dict[str, Tensor]:
    """{name: (M, channels)} of whole maps at M cells."""
    x, y = cells.T
    return {name: map[image_index, :, y, x].float() for name, map in maps.items()}


def _object_depth_loss(prediction: Tensor, painted: Tensor) -> Tensor:
    """Laplacian loss over a whole map's painted cells; the painting is reduced bilinearly, as officially."""
    target = F.interpolate(
        painted[:, None], prediction.shape[-2:], mode="bilinear", align_corners=True
    ).squeeze(1)
    covered = target > 0
    depth, log_sigma = prediction.unbind(dim=1)
    depth = inverse_sigmoid_depth(depth)
    return laplacian_uncertainty_loss(depth[covered], target[covered], log_sigma[covered])


def literal_quasi_isometric_loss(
    features: Tensor, depth: Tensor, k: float, b: float, epsilon: float, temperature: float
) -> Tensor:
    """The official loss as its formula reads, on gathered pairs of objects.

    mean over P of −log( e^(−u_p/T) / (e^(−u_p/T) + Σ over N of e^(−l_n/T)) ), P and N the pairs above the
    upper and below the lower bound.

    Args, Returns: as :func:`qiml.losses.quasi_isometric.official_loss`.
    """
    first, second = torch.triu_indices(len(depth), len(depth), offset=1, device=depth.device)
    gap = (depth[first] - depth[second]).abs()
    local = (gap > 1e-12) & (gap <= epsilon)
    first, second, gap = first[local], second[local], gap[local]
    distance = torch.linalg.vector_norm(features[first] - features[second].detach(), dim=1)
    upper, lower = distance - k * gap - b, gap / k - distance - b
    positive = torch.exp(-upper[upper > 0] / temperature)
    negative = torch.exp(-lower[lower > 0] / temperature).sum()
    return torch.nan_to_num(-torch.log(positive / (positive + negative)).mean(), 0.0)
