"""From raw predictions to detections: heat-map peaks, inverse-sigmoid depth, boxes of the original image."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import invert_affine


@dataclass(frozen=True)
class Peaks:
    """The K strongest local maxima of each image's heat maps, flattened to B·K rows, image by image.

    Where a map has fewer, other cells with a score of 0 fill up the rows.

    Attributes:
        image_index: (B·K,) int64.
        cells: (B·K, 2) int64 x, y.
        classes: (B·K,) int64.
        scores: (B·K,) probability.
    """

    image_index: Tensor
    cells: Tensor
    classes: Tensor
    scores: Tensor

    def __getitem__(self, index: Tensor) -> "Peaks":
        """Select by mask or indices."""
        fields = (self.image_index, self.cells, self.classes, self.scores)
        return Peaks(*(field[index] for field in fields))


def find_peaks(logits: Tensor, top_k: int) -> Peaks:
    """Local maxima in 3×3 neighbourhoods of the heat maps, best first; of equal neighbours only the first.

    Source: Zhou et al., Objects as Points (2019); MonoDLE `lib/helpers/decode_helper.py`, which takes all of
    equal neighbours. In half precision there are many.

    Args:
        logits: (B, C, H, W) raw heat maps.
        top_k: peaks kept per image over all classes (fewer where the map has fewer cells).
    """
    probability = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    batch, _, height, width = probability.shape
    _, of_maximum = F.max_pool2d(probability, 3, stride=1, padding=1, return_indices=True)
    own = torch.arange(height * width, device=logits.device).view(height, width)
    is_peak = of_maximum == own
    flat = (probability * is_peak).flatten(1)
    scores, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
    position = index % (height * width)
    return Peaks(
        image_index=torch.arange(batch, device=logits.device).repeat_interleave(scores.shape[1]),
        cells=torch.stack([position % width, position // width], dim=-1).flatten(0, 1),
        classes=(index // (height * width)).flatten(),
        scores=scores.flatten(),
    )


def inverse_sigmoid_depth(raw: Tensor, eps: float = 1e-6) -> Tensor:
    """Depth in metres, `1 / (sigmoid(x) + eps) − 1`, in float32 (as MonoDLE; MonoCon: 1e-12)."""
    return 1.0 / (raw.float().sigmoid() + eps) - 1.0


def boxes_of_the_original(
    centres: Tensor, sizes: Tensor, image_index: Tensor, affines: Tensor
) -> Tensor:
    """2D boxes mapped back from the network's input to the original images.

    Args:
        centres, sizes: (N, 2) pixels of the input.
        image_index: (N,) int64.
        affines: (B, 2, 3) original pixels → input pixels.

    Returns:
        (N, 4) XYXY in pixels of the original images.
    """
    to_original = invert_affine(affines.to(centres))[image_index]
    corners = torch.stack([centres - sizes / 2, centres + sizes / 2], dim=1)
    # Not a matrix product: autocast would round pixels to the three digits of bfloat16.
    moved = (to_original[:, None, :, :2] * corners[:, :, None]).sum(dim=3)
    return (moved + to_original[:, None, :, 2]).flatten(1)


def detections_at_peaks(
    peaks: Peaks,
    at_peaks: Mapping[str, Tensor],
    boxes3d: Boxes3D,
    *,
    alpha: Tensor,
    depth_sigma: Tensor,
    scores: Tensor,
    kept: Tensor,
    stride: int,
    affines: Tensor,
    image_sizes: list[tuple[int, int]],
) -> list[Instances]:
    """What heads with one 2D box and one 3D box a peak have found, shared among the images.

    Args:
        peaks: N of B images.
        at_peaks: "offset_2d" (2D box's centre − cell) and "size_2d", (N, 2) in cells.
        boxes3d: N in metres of the images' camera frames.
        alpha, depth_sigma, scores: (N,); radians, metres, and a number above 0, the more the surer.
        kept: (N,) bool; the others are left out.
        stride: pixels of the input per cell.
        affines: (B, 2, 3) original pixels → input pixels.
        image_sizes: (height, width) of the original images.

    Returns:
        Per image: pred_boxes in pixels of the original image, scores, pred_classes, pred_boxes3d,
        pred_depth_sigma, pred_alpha, in the order of the peaks.
    """
    boxes2d = boxes_of_the_original(
        (peaks.cells + at_peaks["offset_2d"]) * stride,
        at_peaks["size_2d"] * stride,
        peaks.image_index,
        affines,
    )
    detections = []
    for index, image_size in enumerate(image_sizes):
        # Indices: each field taken by a mask would wait for a GPU.
        own = (kept & (peaks.image_index == index)).nonzero().squeeze(1)
        detections.append(
            Instances(
                image_size,
                pred_boxes=Boxes(boxes2d[own]),
                scores=scores[own],
                pred_classes=peaks.classes[own],
                pred_boxes3d=boxes3d[own],
                pred_depth_sigma=depth_sigma[own],
                pred_alpha=alpha[own],
            )
        )
    return detections
