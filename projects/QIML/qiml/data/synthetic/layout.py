"""What a scene consists of: camera, ground, road, objects and scenery.

Camera frame: x right, y down, z forward, metres. Objects are upright along the camera's y axis, as
KITTI's labels are; pitch and roll of the camera show as slopes of the ground.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Item:
    """One body in the scene.

    Attributes:
        kind: a KITTI class, "DontCare" (a far vehicle), or a kind of scenery.
        body: key of `bodies.BODIES`.
        dimensions: (3,) h, w, l in metres.
        location: (3,) centre of the bottom face, camera frame.
        rotation_y: yaw in [-pi, pi).
    """

    kind: str
    body: str
    dimensions: np.ndarray
    location: np.ndarray
    rotation_y: float

    @functools.cached_property
    def radius(self) -> float:
        """Of the circle around the footprint, in metres."""
        return math.hypot(self.dimensions[1], self.dimensions[2]) / 2

    @functools.cached_property
    def corners(self) -> np.ndarray:
        """(8, 3) corners of the box in the camera frame: the bottom face, then the top face."""
        height, width, length = self.dimensions.tolist()
        x, y, z = self.location.tolist()
        cosine, sine = math.cos(self.rotation_y), math.sin(self.rotation_y)
        bottom = []
        for forward, left in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
            forward, left = forward * length / 2, left * width / 2
            bottom.append((x + cosine * forward + sine * left, z + cosine * left - sine * forward))
        return np.array([(x, y - up, z) for up in (0, height) for x, z in bottom])

    @property
    def footprint(self) -> np.ndarray:
        """(4, 2) corners x, z of the bottom face, in turning order."""
        return self.corners[:4, ::2]


@dataclass(frozen=True)
class Ground:
    """Ground height y = height + slope z + cross x + curvature z^2 in the camera frame."""

    height: float
    slope: float
    cross: float
    curvature: float

    def y(self, x, z):
        """Height at x, z in metres; y points down."""
        return self.height + self.slope * z + self.cross * x + self.curvature * z * z


@dataclass(frozen=True)
class Road:
    """A road along z: its centre line is x = offset + heading z + bend z^2."""

    offset: float
    heading: float
    bend: float
    half_width: float

    def centre(self, z):
        """x of the centre line at z."""
        return self.offset + self.shift(z)

    def shift(self, z):
        """How far the road has turned aside at z."""
        return self.heading * z + self.bend * z * z

    def axis(self, z: float) -> float:
        """Angle of the centre line to the z axis at z."""
        return math.atan(self.heading + 2 * self.bend * z)


@dataclass(frozen=True)
class Layout:
    """Everything of a scene but its looks.

    Attributes:
        size: image width and height in pixels.
        projection: (3, 4), camera frame to pixels.
        ground, road: the surface that everything stands on.
        objects: labelled objects and far vehicles ("DontCare").
        scenery: what has no label.
    """

    size: tuple[int, int]
    projection: np.ndarray
    ground: Ground
    road: Road
    objects: list[Item]
    scenery: list[Item]
