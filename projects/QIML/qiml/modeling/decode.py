"""From raw predictions to numbers: heat-map peaks and inverse-sigmoid depth."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Peaks:
    """The K strongest local maxima of each image's heat maps, flattened to B·K rows, image by image.

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


def find_peaks(logits: Tensor, top_k: int) -> Peaks:
    """Local maxima in 3×3 neighbourhoods of the heat maps, best first.

    Source: Zhou et al., Objects as Points (2019); MonoDLE `lib/helpers/decode_helper.py`.

    Args:
        logits: (B, C, H, W) raw heat maps.
        top_k: peaks kept per image over all classes (fewer where the map has fewer cells).
    """
    probability = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    is_peak = F.max_pool2d(probability, 3, stride=1, padding=1) == probability
    batch, _, height, width = probability.shape
    flat = (probability * is_peak).flatten(1)
    scores, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
    position = index % (height * width)
    return Peaks(
        image_index=torch.arange(batch, device=logits.device).repeat_interleave(scores.shape[1]),
        cells=torch.stack([position % width, position // width], dim=-1).flatten(0, 1),
        classes=(index // (height * width)).flatten(),
        scores=scores.flatten(),
    )


def inverse_sigmoid_depth(raw: Tensor) -> Tensor:
    """Depth in metres, `1 / (sigmoid(x) + 1e-6) − 1`, in float32 (Eigen-style; MonoDLE)."""
    return 1.0 / (raw.float().sigmoid() + 1e-6) - 1.0
