"""Drawing primitives on RGB arrays: continuous coordinates in, anti-aliased ink out (OpenCV)."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
# Bright colours that differ in lightness too, for dark roads and for colour-blind readers.
_CLASS_COLOURS: tuple[Colour, ...] = (
    (255, 149, 41),
    (64, 196, 255),
    (255, 92, 158),
    (178, 255, 89),
    (179, 136, 255),
    (255, 234, 80),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FRACTION_BITS = 4


def class_colour(category: int) -> Colour:
    """RGB colour of a class; repeats after six."""
    return _CLASS_COLOURS[category % len(_CLASS_COLOURS)]


def line_thickness(image: np.ndarray) -> int:
    """Thickness in pixels that looks alike at every image size: 2 for a KITTI frame."""
    return max(1, round((image.shape[0] * image.shape[1]) ** 0.5 / 400))


def draw_segments(
    image: np.ndarray, segments: np.ndarray, colour: Colour, thickness: int = 1
) -> None:
    """Draw lines in place.

    Args:
        image: (H, W, 3) uint8.
        segments: (S, 2, 2) two ends x, y of each line; may lie outside the image.
        colour: RGB.
        thickness: pixels.
    """
    lines = list(_fixed_point(segments))
    cv2.polylines(image, lines, False, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)


def fill_convex(image: np.ndarray, points: np.ndarray, colour: Colour, opacity: float) -> None:
    """Fill the convex hull of points in place, translucently.

    Args:
        image: (H, W, 3) uint8.
        points: (P, 2) x, y in any order; may lie outside the image.
        colour: RGB.
        opacity: 0 (nothing) to 1 (paint).
    """
    height, width = image.shape[:2]
    x1, y1 = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
    if x1 >= x2 or y1 >= y2:
        return
    region = image[y1:y2, x1:x2]
    painted = region.copy()
    hull = cv2.convexHull(_fixed_point(points - (x1, y1)))
    cv2.fillConvexPoly(painted, hull, colour, cv2.LINE_AA, _FRACTION_BITS)
    image[y1:y2, x1:x2] = cv2.addWeighted(painted, opacity, region, 1 - opacity, 0)


def fill_quads(
    image: np.ndarray, quads: np.ndarray, colours: Sequence[Colour], opacity: float
) -> None:
    """Fill convex quadrilaterals in place, translucently; where some overlap, the last is seen.

    For many small ones on a small image: quicker than :func:`fill_convex` for each.

    Args:
        image: (H, W, 3) uint8.
        quads: (N, 4, 2) x, y around each; may lie outside the image.
        colours: RGB of each.
        opacity: 0 (nothing) to 1 (paint).
    """
    painted = image.copy()
    for points, colour in zip(_fixed_point(quads), colours, strict=True):
        cv2.fillConvexPoly(painted, points, colour, cv2.LINE_AA, _FRACTION_BITS)
    cv2.addWeighted(painted, opacity, image, 1 - opacity, 0, dst=image)


def draw_circle(
    image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour, thickness: int = 1
) -> None:
    """Draw a circle in place; thickness −1 fills it."""
    x, y = _fixed_point(centre).tolist()
    scaled_radius = round(radius * 2**_FRACTION_BITS)
    cv2.circle(image, (x, y), scaled_radius, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels of what :func:`draw_text` covers; all texts are equally high."""
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    return width, sum(_text_extent(scale))


def draw_text(
    image: np.ndarray, text: str, corner: tuple[int, int], colour: Colour, scale: float
) -> None:
    """Write a text in place, its upper-left corner at x, y."""
    above, _ = _text_extent(scale)
    baseline = (int(corner[0]), int(corner[1]) + above)
    cv2.putText(image, text, baseline, _FONT, scale, colour, 1, cv2.LINE_AA)


@functools.lru_cache(maxsize=64)
def _text_extent(scale: float) -> tuple[int, int]:
    """Pixels above and below the baseline."""
    (_, above), below = cv2.getTextSize("Ag", _FONT, scale, 1)
    return above, below


def _fixed_point(points: np.ndarray) -> np.ndarray:
    # OpenCV puts pixel centres at whole numbers, we put them at halves.
    return np.rint((np.asarray(points) - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
