"""Object-wise depth maps, painted from labels or predicted, as pictures."""

import math

import cv2
import numpy as np

from qiml.visualization import canvas

_BACKGROUND = 24
_BAR_WIDTH = 64


def draw_depth_map(
    depth: np.ndarray, image: np.ndarray | None = None, max_depth: float | None = None
) -> np.ndarray:
    """Colour a map by depth, near cells brightest, with a scale in metres beside it.

    Args:
        depth: (H, W) metres; 0 where there is no object.
        image: (H', W', 3) uint8 RGB that the map covers, seen in grey where no object is; it gives the
            picture its size. None: the map's own size on dark ground.
        max_depth: metres of the darkest colour; None takes whole tens that hold all depths.

    Returns:
        (H', W' + 64, 3) uint8 RGB.
    """
    if max_depth is None:
        max_depth = 10 * max(1, math.ceil(depth.max(initial=0) / 10))
    if image is None:
        ground = np.full((*depth.shape, 3), _BACKGROUND, dtype=np.uint8)
    else:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2
        ground = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    # Nearest cells: interpolation would show depths between two objects that nothing has.
    resized = cv2.resize(
        depth.astype(np.float32), ground.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    picture = np.where(resized[..., None] > 0, _colours(resized, max_depth), ground)
    return np.concatenate([picture, _scale(picture.shape[0], max_depth)], axis=1)


def draw_depth_maps(
    painted: np.ndarray,
    predicted: np.ndarray,
    image: np.ndarray | None = None,
    max_depth: float | None = None,
) -> np.ndarray:
    """A painted map above the predicted one in the same colours, the latter where objects are.

    The auxiliary head learns from covered cells alone: what it says elsewhere means nothing.

    Args:
        painted, predicted: (H, W) metres; painted is 0 where there is no object.
        image, max_depth: as for :func:`draw_depth_map`; None takes whole tens that hold the painted depths.

    Returns:
        (2·H', W' + 64, 3) uint8 RGB.
    """
    if max_depth is None:
        max_depth = 10 * max(1, math.ceil(painted.max(initial=0) / 10))
    maps = (painted, np.where(painted > 0, predicted, 0))
    return np.concatenate([draw_depth_map(depth, image, max_depth) for depth in maps])


def _colours(depth: np.ndarray, max_depth: float) -> np.ndarray:
    """(H, W, 3) RGB, bright for near."""
    nearness = 255 * (1 - np.clip(depth / max_depth, 0, 1))
    # The darkest colours would look like the ground.
    levels = (40 + nearness * (215 / 255)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _scale(height: int, max_depth: float) -> np.ndarray:
    """(height, 64, 3): a bar of all colours, its numbers in metres, far at the top."""
    scale = np.full((height, _BAR_WIDTH, 3), _BACKGROUND, dtype=np.uint8)
    depths = np.linspace(max_depth, 0, height, dtype=np.float32)[:, None]
    scale[:, 8:22] = _colours(depths, max_depth)
    _, text_height = canvas.text_size("0", 0.4)
    for share in np.linspace(0, 1, max(2, min(6, height // (2 * text_height)))):
        corner = (26, round(share * (height - text_height)))
        canvas.draw_text(scale, f"{max_depth * (1 - share):.0f} m", corner, canvas.WHITE, 0.4)
    return scale
