"""Draws bodies as shaded polygons, far ones first, and finds how much of each stays visible."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from qiml.data.synthetic.bodies import BODIES
from qiml.data.synthetic.footprints import paint_order
from qiml.data.synthetic.layout import Item, Layout
from qiml.data.synthetic.looks import GLOSS, GLOWS, Light, sample_palette
from qiml.data.synthetic.projection import NEAR, clip_near, project

# Bodies are drawn at this multiple of the image's size and averaged down: smooth edges.
OVERSAMPLING = 2
SHIFT = 4
_SCENERY = 255


@dataclass(frozen=True)
class Faces:
    """The faces of a scene that can be seen, in painting order.

    Attributes:
        polygons: (F, K, 3) corners in the camera frame.
        colours: (F, 3) RGB.
        owners: (F,) index of the item, objects before scenery; those of one item follow each other.
    """

    polygons: np.ndarray
    colours: np.ndarray
    owners: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Faces":
        return Faces(self.polygons[index], self.colours[index], self.owners[index])


def draw_bodies(surface: np.ndarray, layout: Layout, faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects and scenery over the surface.

    Args:
        surface: (H, W, 3) uint8 RGB.
        layout: of the scene.
        faces: of :func:`collect_faces`.

    Returns:
        (H, W, 3) uint8 image; and, of each of `layout.objects`, the share of its outline inside
        the image that nothing nearer covers (0 when all of it lies outside).
    """
    width, height = (side * OVERSAMPLING for side in layout.size)
    # The fourth channel holds what was drawn last: object 1, 2, ..., or _SCENERY (cv2's default).
    canvas = cv2.cvtColor(cv2.resize(surface, (width, height)), cv2.COLOR_RGB2RGBA)
    polygons, kept = to_pixels(
        faces.polygons, np.diag([OVERSAMPLING, OVERSAMPLING, 1]) @ layout.projection
    )
    faces = faces[kept]
    count = len(layout.objects)
    drawn, boxes = np.zeros(count, int), [(slice(0), slice(0))] * count
    ends = np.flatnonzero(np.diff(faces.owners, append=-1)) + 1
    for start, end in pairwise([0, *ends]):
        owner = faces.owners[start]
        identity = int(owner) + 1 if owner < count else _SCENERY
        colours = faces.colours[start:end].tolist()
        for polygon, colour in zip(polygons[start:end], colours, strict=True):
            cv2.fillConvexPoly(canvas, polygon, (*colour, identity), cv2.LINE_8, SHIFT)
        if owner < count:
            boxes[owner] = _extent(polygons[start:end], width, height)
            drawn[owner] = np.count_nonzero(canvas[boxes[owner]][..., 3] == identity)
    seen = [np.count_nonzero(canvas[box][..., 3] == i + 1) for i, box in enumerate(boxes)]
    image = cv2.resize(canvas, layout.size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.array(seen) / np.maximum(drawn, 1)


def collect_faces(layout: Layout, light: Light, rng: np.random.Generator) -> Faces:
    """Place, cull, light and sort the faces of all bodies of a scene."""
    items = [*layout.objects, *layout.scenery]
    meshes, palettes = [], []
    for item in items:
        variants = BODIES[item.body]
        meshes.append(variants[rng.integers(len(variants))])
        palettes.append(sample_palette(rng, item.kind, item.body))
    if not items:
        return Faces(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0, int))
    owners = np.repeat(np.arange(len(items)), [len(mesh.faces) for mesh in meshes])
    polygons = _to_camera(np.concatenate([mesh.faces for mesh in meshes]), items, owners)
    normals = np.cross(polygons[:, 2] - polygons[:, 0], polygons[:, 1] - polygons[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    facing = np.einsum("fi,fi->f", normals, polygons[:, 0])
    turned_to_us = (facing < 0) | np.concatenate([mesh.two_sided for mesh in meshes])
    rank = np.empty(len(items), int)
    rank[paint_order(np.stack([item.footprint for item in items]))] = np.arange(len(items))
    order = _painting_order(meshes, owners, rank, polygons)
    order = order[turned_to_us[order]]
    materials = np.concatenate([mesh.materials for mesh in meshes])[order]
    colours = np.stack(palettes)[owners[order], materials]
    normals = np.where(facing[order, None] < 0, normals[order], -normals[order])
    colours = _shade(colours, materials, normals, light)
    colours *= rng.normal(1, 0.03, (len(order), 1))
    haze = np.exp(-np.maximum(polygons[order, 0, 2:], 0) / light.haze)
    colours = light.horizon + haze * (colours - light.horizon)
    return Faces(polygons[order], np.clip(colours, 0, 255), owners[order])


def _to_camera(faces: np.ndarray, items: list[Item], owners: np.ndarray) -> np.ndarray:
    """Faces (F, K, 3) in unit boxes to the camera frame."""
    dimensions = np.stack([item.dimensions for item in items])
    yaw = np.array([item.rotation_y for item in items])
    cosine, sine, zero = np.cos(yaw), np.sin(yaw), np.zeros(len(items))
    height, width, length = dimensions.T
    # Rows: where (forward, up, left) of the unit box go.
    matrices = np.stack(
        [
            np.stack([cosine * length, zero, -sine * length], axis=1),
            np.stack([zero, -height, zero], axis=1),
            np.stack([sine * width, zero, cosine * width], axis=1),
        ],
        axis=1,
    ).astype(np.float32)
    location = np.stack([item.location for item in items]).astype(np.float32)
    return faces @ matrices[owners] + location[owners][:, None]


def _painting_order(meshes, owners: np.ndarray, rank: np.ndarray, polygons: np.ndarray):
    """(F,) order of faces: by item from back to front, by part, and as built within a part."""
    sizes = np.array([mesh.parts[-1] + 1 for mesh in meshes])
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    parts = np.concatenate([mesh.parts for mesh in meshes]) + first[owners]
    distance = np.linalg.norm(polygons.mean(axis=1), axis=1)
    mean = np.bincount(parts, distance) / np.bincount(parts)
    layered = np.repeat([mesh.layered for mesh in meshes], sizes)
    place = np.where(layered, np.arange(len(mean)), -mean)
    return np.lexsort((place[parts], rank[owners]))


def _shade(colours, materials, normals, light: Light) -> np.ndarray:
    """Colours (F, 3) in sun and shade, with the sky mirrored in paint and glass."""
    sun = np.maximum(normals @ light.sun, 0)
    upwards = -normals[:, 1]
    shade = light.ambient * (1 + 0.15 * upwards) + (1.15 - light.ambient) * sun
    shade[GLOWS[materials]] = 1.0
    mirrored = (GLOSS[materials] * np.clip(0.35 + 0.8 * upwards, 0, 1))[:, None]
    return colours * shade[:, None] * (1 - mirrored) + mirrored * light.horizon


def to_pixels(polygons: np.ndarray, projection: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Polygons (n, 2) in cv2's fixed-point pixels, and the indices of the faces they show."""
    ahead = polygons[..., 2] >= NEAR
    whole = ahead.all(axis=1)
    image = project(np.where(whole[:, None, None], polygons, np.float32(1)), projection)
    edges = image - image[:, :1]
    area = np.abs(
        (edges[:, :-1, 0] * edges[:, 1:, 1] - edges[:, :-1, 1] * edges[:, 1:, 0]).sum(axis=1)
    )
    cut = ahead.any(axis=1) & ~whole
    kept = np.flatnonzero(cut | (whole & (area > 0.5)))
    # cv2 counts from pixel centres.
    fixed = list(((image - 0.5) * 2**SHIFT).round().astype(np.int32)[kept])
    for place in np.flatnonzero(cut[kept]):
        clipped = project(clip_near(polygons[kept[place]]), projection)
        fixed[place] = ((clipped - 0.5) * 2**SHIFT).round().astype(np.int32)
    return fixed, kept


def _extent(polygons: list[np.ndarray], width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of the canvas that the polygons touch."""
    points = np.concatenate(polygons) >> SHIFT
    low = np.clip(points.min(axis=0) - 1, 0, (width, height))
    high = np.clip(points.max(axis=0) + 2, 0, (width, height))
    return slice(low[1], high[1]), slice(low[0], high[0])
