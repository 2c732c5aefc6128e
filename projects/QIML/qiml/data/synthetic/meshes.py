"""Bodies as flat-faced meshes: vehicles, people and the things that stand beside a road.

A mesh is built in metres along (forward, up, left) and then scaled to the unit box
[-0.5, 0.5] x [0, 1] x [-0.5, 0.5], so that a body drawn with a label's dimensions fills its box.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

MAX_VERTICES = 10
_LEFT = np.array([0.0, 0.0, 1.0])


class Material(IntEnum):
    """Row of a body's palette."""

    PAINT = 0
    TRIM = 1
    SKIN = 2
    HAIR = 3
    GLASS = 4
    TYRE = 5
    RIM = 6
    HEADLIGHT = 7
    TAILLIGHT = 8
    PLATE = 9
    DARK = 10


@dataclass(frozen=True)
class Mesh:
    """Faces in the order in which they may be painted.

    Attributes:
        faces: (F, MAX_VERTICES, 3) corners (forward, up, left) in the unit box, wound so that
            the cross product of the first two edges points outwards; the last corner repeats.
        materials: (F,) `Material` of each face.
        parts: (F,) number of the convex part that a face belongs to, ascending.
        two_sided: (F,) True for faces that are seen from both sides.
        layered: parts are to be painted in the given order; otherwise from far to near.
    """

    faces: np.ndarray
    materials: np.ndarray
    parts: np.ndarray
    two_sided: np.ndarray
    layered: bool


def rectangle(rear: float, front: float, up: float, half_width: float) -> np.ndarray:
    """(4, 3) corners of a level rectangle: right rear, right front, left front, left rear."""
    return np.array(
        [
            (rear, up, -half_width),
            (front, up, -half_width),
            (front, up, half_width),
            (rear, up, half_width),
        ]
    )


def band(low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    """(4, 3) face between two rings at corner `side`; of rectangles: right, front, left, rear."""
    following = (side + 1) % len(low)
    return np.stack([low[side], low[following], high[following], high[side]])


class MeshBuilder:
    """Collects convex parts; every function appends to the part begun last."""

    def __init__(self):
        self._faces, self._materials, self._parts, self._two_sided = [], [], [], []
        self._part = -1

    def begin_part(self) -> None:
        """What follows belongs to a new convex part."""
        self._part += 1

    def face(self, corners, material: int, two_sided: bool = False) -> None:
        """A flat face with up to `MAX_VERTICES` corners of shape (n, 3) in metres."""
        self._faces.append(np.asarray(corners, dtype=float))
        self._materials.append(material)
        self._parts.append(self._part)
        self._two_sided.append(two_sided)

    def prism(self, rings, material: int, caps: tuple[bool, bool] = (True, True)) -> None:
        """Bands between successive rings of corners, and the first and last ring as caps."""
        rings = np.asarray(rings, dtype=float)
        for low, high in pairwise(rings):
            for side in range(len(low)):
                self.face(band(low, high, side), material)
        for ring, wanted in zip((rings[0], rings[-1]), caps, strict=True):
            if wanted:
                self.face(ring, material)

    def box(self, centre, size, material: int) -> None:
        """A box as a part of its own; `centre` and `size` along (forward, up, left)."""
        self.begin_part()
        forward, up, left = np.asarray(size) / 2
        ends = rectangle(-forward, forward, -up, left), rectangle(-forward, forward, up, left)
        self.prism([end + centre for end in ends], material)

    def limb(self, start, end, radii, material: int, sides: int = 6, flat: float = 1.0) -> None:
        """A tapered tube as a part of its own.

        Args:
            start, end: its axis, (forward, up, left).
            radii: to the left and right, at the start and at the end.
            material: of all its faces.
            sides: number of faces around.
            flat: radius across divided by the radius to the left.
        """
        self.begin_part()
        start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        axis = (end - start) / np.linalg.norm(end - start)
        across = np.cross(axis, _LEFT)
        across /= np.linalg.norm(across)
        angle = np.arange(sides) * 2 * np.pi / sides
        ring = np.cos(angle)[:, None] * _LEFT + flat * np.sin(angle)[:, None] * across
        self.prism([start + radii[0] * ring, end + radii[1] * ring], material)

    def blob(self, centre, size, material: int, sides: int = 8) -> None:
        """A rounded lump as a part of its own; `size` along (forward, up, left)."""
        self.begin_part()
        angle = np.arange(sides) * 2 * np.pi / sides
        around = np.stack([np.cos(angle), np.zeros(sides), np.sin(angle)], axis=1)
        rings = [
            around * np.cos(latitude) + (0, np.sin(latitude), 0)
            for latitude in np.radians([-65, -22, 22, 65])
        ]
        self.prism(np.stack(rings) * (np.asarray(size) / 2) + centre, material)

    def patch(self, quad, across, up, material: int) -> None:
        """A piece of a quad (bottom start, bottom end, top end, top start), by its two shares."""
        quad = np.asarray(quad, dtype=float)
        corners = []
        for u, v in (
            (across[0], up[0]),
            (across[1], up[0]),
            (across[1], up[1]),
            (across[0], up[1]),
        ):
            bottom = quad[0] + u * (quad[1] - quad[0])
            corners.append(bottom + v * (quad[3] + u * (quad[2] - quad[3]) - bottom))
        self.face(corners, material)

    def build(self, layered: bool) -> Mesh:
        """The mesh, scaled to the unit box, each part's faces turned outwards."""
        parts = np.array(self._parts)
        corners = np.concatenate(self._faces)
        low, high = corners.min(axis=0), corners.max(axis=0)
        faces = [(face - low) / (high - low) - (0.5, 0.0, 0.5) for face in self._faces]
        middle = np.stack([face.mean(axis=0) for face in faces])
        outwards = middle - np.stack([middle[parts == part].mean(axis=0) for part in parts])
        return Mesh(
            np.stack([_wind(*pair) for pair in zip(faces, outwards, strict=True)]).astype(
                np.float32
            ),
            np.array(self._materials),
            parts,
            np.array(self._two_sided),
            layered,
        )


def _wind(face: np.ndarray, outwards: np.ndarray) -> np.ndarray:
    """A face turned so that its normal points outwards, padded to `MAX_VERTICES` corners."""
    normal = np.cross(face[1] - face[0], face[2] - face[0])
    face = face if normal @ outwards >= 0 else face[::-1]
    return np.concatenate([face, np.repeat(face[-1:], MAX_VERTICES - len(face), axis=0)])
