"""One synthetic frame: image, labels and camera."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from qiml.data.kitti_format import KITTIObjects
from qiml.data.synthetic.depth import draw_depth
from qiml.data.synthetic.layout import Item
from qiml.data.synthetic.looks import sample_light
from qiml.data.synthetic.placement import KITTI_CAMERA, ReferenceCamera, sample_layout
from qiml.data.synthetic.projection import NEAR, clip_near, project
from qiml.data.synthetic.render import collect_faces, draw_bodies
from qiml.data.synthetic.surface import paint_surface

# Visible share of an object's outline below which it counts as partly, largely and nearly hidden.
OCCLUSION_LIMITS = (0.95, 0.5, 0.12)
# Less than this share in view, and an object is not labelled.
_UNSEEN = 0.02


@dataclass(frozen=True, eq=False)
class SyntheticFrame:
    """A frame as in KITTI's object benchmark.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: labels, far vehicles as DontCare regions.
        projection: (3, 4) P2, camera frame to pixels.
        depth: (H, W) float32 metres of what each pixel shows, 0 for the sky; None unless asked for.
    """

    image: np.ndarray
    objects: KITTIObjects
    projection: np.ndarray
    depth: np.ndarray | None = None


def render_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (416, 128),
    camera: ReferenceCamera = KITTI_CAMERA,
    dense_depth: bool = False,
) -> SyntheticFrame:
    """Draw frame `index` of the dataset `seed`, a pure function of its arguments.

    Args:
        seed, index: not negative.
        size: image width and height in pixels.
        camera: what sees it.
        dense_depth: draw its true depth, too; the rest is the same with and without.
    """
    rng = np.random.default_rng((seed, index))
    layout = sample_layout(rng, size, camera)
    light = sample_light(rng)
    surface = paint_surface(layout, light, rng)
    faces = collect_faces(layout, light, rng)
    image, visible = draw_bodies(surface, layout, faces)
    objects = label_objects(layout.objects, visible, layout.projection, size)
    depth = draw_depth(layout, faces) if dense_depth else None
    return SyntheticFrame(_expose(image, rng), objects, layout.projection, depth)


def label_objects(
    items: list[Item], visible: np.ndarray, projection: np.ndarray, size: tuple[int, int]
) -> KITTIObjects:
    """KITTI labels: the 2D box is that of the eight projected corners, cut at the image's border.

    Args:
        items: N objects.
        visible: (N,) share of each that nothing nearer covers.
        projection: (3, 4) camera frame to pixels.
        size: image width and height in pixels.

    Returns:
        Labels of the objects in view. Truncation is the share of the uncut 2D box outside the image.
    """
    whole = np.array([_box_around(item.corners, projection) for item in items]).reshape(-1, 4)
    bbox = np.clip(whole, 0, (*size, *size))
    location = np.array([item.location for item in items]).reshape(-1, 3)
    yaw = np.array([item.rotation_y for item in items])
    alpha = yaw - np.arctan2(location[:, 0], location[:, 2])
    objects = KITTIObjects.from_columns(
        [item.kind for item in items],
        bbox=bbox,
        dimensions=np.array([item.dimensions for item in items]).reshape(-1, 3),
        location=location,
        rotation_y=yaw,
        alpha=(alpha + np.pi) % (2 * np.pi) - np.pi,
        truncation=1 - _area(bbox) / _area(whole),
        occlusion=(visible[:, None] < OCCLUSION_LIMITS).sum(axis=1),
    )
    regions = KITTIObjects.from_columns(["DontCare"] * len(items), bbox=bbox)
    in_view, far = visible > _UNSEEN, objects.types == "DontCare"
    return KITTIObjects.concatenate([objects[in_view & ~far], regions[in_view & far]])


_SIDES = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))


def _box_around(box: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """(4,) x1, y1, x2, y2 around what lies ahead of the camera of a box's corners (8, 3)."""
    if box[:, 2].min() < NEAR:
        box = np.concatenate([clip_near(box[list(side)]) for side in _SIDES])
    pixels = project(box, projection)
    return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the camera adds: exposure, colour cast, tone curve, blur and noise."""
    level = np.arange(256) / 255
    gain, gamma, base = rng.uniform(0.75, 1.2), np.exp(rng.normal(0, 0.15)), rng.uniform(0, 0.05)
    cast = rng.normal(1, 0.05, 3)
    curve = base + (level[:, None] ** gamma) * gain * cast
    table = np.clip(curve * 255, 0, 255).astype(np.uint8)[None]
    image = cv2.LUT(image, table)
    blur = rng.uniform(0, 0.8)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    height, width = image.shape[:2]
    grain = _grain(width, height)
    row, column = rng.integers(0, _GRAIN_MARGIN, 2)
    grain = grain[row : row + height, column : column + width]
    strength = rng.uniform(1, 6) / _GRAIN_DEVIATION
    return cv2.addWeighted(image, 1.0, grain, strength, -128 * strength)


_GRAIN_MARGIN, _GRAIN_DEVIATION = 64, 32


@functools.cache
def _grain(width: int, height: int) -> np.ndarray:
    """Sensor noise around 128, a little larger than the image; scenes use different parts of it."""
    shape = (height + _GRAIN_MARGIN, width + _GRAIN_MARGIN, 3)
    noise = np.random.default_rng(0).normal(128, _GRAIN_DEVIATION, shape)
    return np.clip(noise, 0, 255).astype(np.uint8)
