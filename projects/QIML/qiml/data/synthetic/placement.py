"""Draws a scene: puts objects and scenery on the ground as KITTI's statistics have it."""

import math
from dataclasses import dataclass

import numpy as np

from qiml.data.synthetic import statistics as st
from qiml.data.synthetic.footprints import overlaps, view_interval, visible_shares
from qiml.data.synthetic.layout import Ground, Item, Layout, Road


@dataclass(frozen=True)
class ReferenceCamera:
    """A real camera that scenes are seen by, scaled to the image.

    Attributes:
        size: width and height in pixels.
        focal, centre: pixels.
        shift: fourth column of the projection.
        raised: metres that it stands higher than KITTI's.
    """

    size: tuple[int, int]
    focal: float
    centre: tuple[float, float]
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    raised: float = 0.0


# KITTI's left colour camera, and Waymo's front camera.
KITTI_CAMERA = ReferenceCamera((1242, 375), 721.54, (609.56, 172.85), (44.86, 0.22, 0.0027))
WAYMO_CAMERA = ReferenceCamera((1920, 1280), 2055.0, (950.0, 633.0), raised=0.46)
_TRIES = 6
# Objects that are hidden would not be labelled; this share of the width must stay in view.
_LEAST_VISIBLE = 0.05
_CLEARANCE = 0.1


def sample_layout(
    rng: np.random.Generator, size: tuple[int, int], camera: ReferenceCamera = KITTI_CAMERA
) -> Layout:
    """Draw a scene from KITTI's statistics.

    Args:
        rng: the scene's generator.
        size: image width and height in pixels.
        camera: what sees it.
    """
    projection = _sample_projection(rng, size, camera)
    slope = rng.normal(*st.GROUND_SLOPE)
    curvature = st.CURVATURE_PER_SLOPE * slope + rng.normal(0, st.CURVATURE_DEVIATION)
    height, cross = rng.normal(*st.CAMERA_HEIGHT), rng.normal(*st.GROUND_CROSS)
    ground = Ground(height + camera.raised, slope, cross, curvature)
    road = Road(rng.uniform(-4, 1), rng.normal(0, 0.02), rng.normal(0, 2e-4), rng.uniform(4, 8.5))
    placer = _Placer(rng, size, projection, ground, road)
    placer.place_objects()
    objects = list(placer.items)
    placer.place_scenery()
    return Layout(size, projection, ground, road, objects, placer.items[len(objects) :])


def _sample_projection(
    rng: np.random.Generator, size: tuple[int, int], camera: ReferenceCamera
) -> np.ndarray:
    """The camera scaled to the image, focal length and centre varied by a few per cent."""
    across, down = size[0] / camera.size[0], size[1] / camera.size[1]
    focal = camera.focal * across * rng.uniform(0.97, 1.03)
    shift = np.array(camera.shift) * (across, across, 1)
    projection = np.zeros((3, 4))
    projection[0, 0] = projection[1, 1] = focal
    projection[0, 2] = camera.centre[0] * across + rng.normal(0, 0.008) * size[0]
    projection[1, 2] = camera.centre[1] * down + rng.normal(0, 0.015) * size[1]
    projection[2, 2] = 1
    projection[:, 3] = shift
    return projection


@dataclass(frozen=True)
class Scenery:
    """How one kind of scenery is drawn.

    Attributes:
        body: key of `bodies.BODIES`.
        most: largest number a frame.
        smallest, largest: h, w, l in metres.
        depth: range of z in metres.
        beside_road: range of the distance to the road's edge in metres.
        may_hide: largest share of an object's width that one may hide.
    """

    body: str
    most: int
    smallest: tuple[float, float, float]
    largest: tuple[float, float, float]
    depth: tuple[float, float]
    beside_road: tuple[float, float]
    may_hide: float


SCENERY = (
    Scenery("building", 8, (4, 7, 7), (13, 14, 22), (12, 120), (2, 18), 0.0),
    Scenery("tree", 7, (4, 2.5, 2.5), (9, 5, 5), (7, 100), (0.5, 14), 0.3),
    Scenery("bush", 4, (0.6, 0.8, 1.5), (1.8, 2, 5), (6, 60), (0.5, 8), 0.3),
    Scenery("lamp_post", 3, (4.5, 0.25, 0.25), (8, 0.4, 0.4), (6, 60), (0.3, 1.5), 0.3),
    Scenery("sign", 3, (1.8, 0.5, 0.12), (3.2, 0.9, 0.16), (6, 40), (0.3, 3), 0.4),
    Scenery("crate", 3, (0.4, 0.4, 0.4), (2.4, 2.2, 3.0), (6, 60), (0.0, 8), 0.4),
)


class _Placer:
    """Puts items on the ground one by one, without overlaps and without hiding others entirely."""

    def __init__(self, rng, size, projection, ground: Ground, road: Road):
        self.rng, self.ground, self.road = rng, ground, road
        self.items: list[Item] = []
        self._circles: list[tuple[float, float, float]] = []  # x, z, radius
        self._intervals: list[tuple[float, float, float]] = []  # `view_interval` of objects
        focal, centre = projection[0, 0], projection[0, 2]
        self._view = math.atan2(-centre, focal), math.atan2(size[0] - centre, focal)

    def place_objects(self) -> None:
        """Draw the frame's labelled objects, then the vehicles too far for a label."""
        for name, count in st.draw_counts(self.rng).items():
            for _ in range(count):
                self._place_object(name)
        for _ in range(self.rng.poisson(st.FAR_VEHICLES)):
            self._place_far_vehicle()

    def _place_object(self, name: str) -> None:
        dimensions = st.draw_dimensions(self.rng, name)
        body = self._body(name, dimensions)
        # Depth is redrawn only after several tries: else crowded near places push objects away.
        for _ in range(3):
            depth = st.draw_depth(self.rng, name)
            for _ in range(_TRIES):
                pose = self._propose(name, dimensions[2], depth)
                if self._add_object(self._stand(name, body, dimensions, *pose)):
                    return

    def _place_far_vehicle(self) -> None:
        dimensions = st.draw_dimensions(self.rng, "Car")
        body = self._body("Car", dimensions)
        for _ in range(_TRIES):
            pose = self._propose_vehicle("Car", self.rng.uniform(*st.FAR_DEPTH))
            if self._add_object(self._stand("DontCare", body, dimensions, *pose)):
                return

    def _propose(self, name: str, length: float, depth: float) -> tuple[float, float, float]:
        """x, z and yaw of a candidate: beside others of its kind, behind something, or anywhere."""
        rng, vehicle = self.rng, name in st.VEHICLES
        if rng.random() < (st.ROW_SHARE if vehicle else st.GROUP_SHARE):
            if others := [item for item in self.items if _may_join(name, item)]:
                other = others[rng.integers(len(others))]
                if vehicle:
                    return self._propose_in_row(other, length)
                return self._propose_in_group(other)
        if vehicle:
            x, z, yaw = self._propose_vehicle(name, depth)
        else:
            x, z, yaw = st.draw_lateral(rng, name, depth), depth, st.draw_yaw(rng, name)
        nearer = [item for item in self.items if item.location[2] < z - 2]
        if nearer and rng.random() < st.BEHIND_SHARE:
            other = nearer[rng.integers(len(nearer))]
            x = (other.location[0] + rng.normal(0, other.dimensions[1] / 2)) * z / other.location[2]
        return x, z, yaw

    def _propose_in_row(self, other: Item, length: float) -> tuple[float, float, float]:
        rng = self.rng
        gap = rng.uniform(*st.ROW_GAP) + (length + other.dimensions[2]) / 2
        z = max(other.location[2] + gap * rng.choice((-1, 1)), 2.0)
        turn = self.road.shift(z) - self.road.shift(other.location[2])
        yaw = other.rotation_y + rng.normal(0, 0.02)
        return other.location[0] + turn + rng.normal(0, 0.2), z, yaw

    def _propose_in_group(self, other: Item) -> tuple[float, float, float]:
        x, z = other.location[[0, 2]] + self.rng.normal(0, 0.9, 2)
        return x, max(z, 2.5), other.rotation_y + self.rng.normal(0, 0.3)

    def _propose_vehicle(self, name: str, depth: float) -> tuple[float, float, float]:
        rng = self.rng
        shares = np.cumsum(st.DIRECTION_SHARES[name])
        direction = st.DIRECTIONS[np.searchsorted(shares, rng.random() * shares[-1])]
        x = st.draw_lateral(rng, direction, depth)
        if direction == "crossing":
            return x, depth, st.draw_yaw(rng, direction)
        along = -math.pi / 2 if direction == "same" else math.pi / 2
        yaw = along + self.road.axis(depth) + rng.laplace(0, st.AXIS_DEVIATION)
        return x + self.road.shift(depth), depth, yaw

    def _body(self, name: str, dimensions: np.ndarray) -> str:
        """A shape that goes with the size."""
        height, _, length = dimensions
        if name != "Car":
            shapes = ("van", "minibus") if name == "Van" else (name.lower(),)
        elif height > 1.62:
            shapes = ("suv", "minivan", "pickup") if length > 4.2 else ("suv", "minivan")
        elif length < 3.75:
            shapes = ("hatchback",)
        else:
            shapes = ("estate" if length > 4.2 else "hatchback", "sedan", "coupe")
        return shapes[self.rng.integers(len(shapes))]

    def _stand(self, kind: str, body: str, dimensions, x: float, z: float, yaw: float) -> Item:
        y = self.ground.y(x, z) + self.rng.normal(0, st.CONTACT_DEVIATION)
        yaw = (yaw + math.pi) % (2 * math.pi) - math.pi
        return Item(kind, body, dimensions, np.array([x, y, z]), yaw)

    def _add_object(self, item: Item) -> bool:
        """Add an object unless it is out of view, overlaps another, or one would hide another."""
        footprint = item.footprint
        interval = view_interval(footprint)
        _, first, last = interval
        margin = 0.1 * (last - first)
        if last - margin < self._view[0] or first + margin > self._view[1]:
            return False
        if not self._is_free(item, footprint):
            return False
        if visible_shares(np.array([*self._intervals, interval])).min() < _LEAST_VISIBLE:
            return False
        self._intervals.append(interval)
        self._append(item)
        return True

    def _is_free(self, item: Item, footprint: np.ndarray) -> bool:
        """True where nothing stands: no item, nor the car that carries the camera."""
        x, z = footprint.T
        if z.max() < 1.0 or (z.min() < 3.5 and x.min() < 1.2 and x.max() > -1.2):
            return False
        if not self.items:
            return True
        xs, zs, radii = np.array(self._circles).T
        reach = radii + item.radius + _CLEARANCE
        near = np.hypot(xs - item.location[0], zs - item.location[2]) < reach
        return not any(
            overlaps(footprint, self.items[i].footprint, _CLEARANCE) for i in np.flatnonzero(near)
        )

    def _append(self, item: Item) -> None:
        self.items.append(item)
        self._circles.append((item.location[0], item.location[2], item.radius))

    def place_scenery(self) -> None:
        """Draw buildings, vegetation, street furniture and boxes: things without a label."""
        intervals = np.array(self._intervals).reshape(-1, 3)
        for kind in SCENERY:
            for _ in range(self.rng.integers(0, kind.most + 1)):
                item = self._propose_scenery(kind)
                hidden = _hidden_shares(view_interval(item.footprint), intervals)
                if hidden.max(initial=0) <= kind.may_hide and self._is_free(item, item.footprint):
                    self._append(item)

    def _propose_scenery(self, kind: Scenery) -> Item:
        rng = self.rng
        dimensions = rng.uniform(kind.smallest, kind.largest)
        side = rng.choice((-1, 1))
        z = rng.uniform(*kind.depth)
        aside = self.road.half_width + rng.uniform(*kind.beside_road) + dimensions[1] / 2
        yaw = self.road.axis(z) + rng.integers(4) * math.pi / 2 + rng.normal(0, 0.1)
        return self._stand(
            kind.body, kind.body, dimensions, self.road.centre(z) + side * aside, z, yaw
        )


def _hidden_shares(interval: tuple[float, float, float], others: np.ndarray) -> np.ndarray:
    """(N,) share of each of the other intervals that a nearer `interval` covers."""
    nearest, first, last = interval
    common = np.minimum(last, others[:, 2]) - np.maximum(first, others[:, 1])
    shares = np.maximum(common, 0) / (others[:, 2] - others[:, 1])
    return np.where(nearest < others[:, 0], shares, 0)


def _may_join(name: str, item: Item) -> bool:
    """True for vehicles along the road when `name` is a vehicle, else for people of its kind."""
    return abs(math.sin(item.rotation_y)) > 0.9 if name in st.VEHICLES else item.kind == name
