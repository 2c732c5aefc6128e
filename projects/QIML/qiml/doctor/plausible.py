"""How large and how far away objects may be, class by class.

Wider than what 3,098 frames of KITTI hold, and for Waymo's classes wider than children and articulated buses.
"""

from typing import NamedTuple


class Plausible(NamedTuple):
    """Least and most of height, width and length in metres, and the farthest distance.

    `overlap`: least IoU of the 2D box and the projected 3D box of an object that is wholly in the image.
    KITTI's are at least 0.94, of trams 0.85; pedestrians' limbs leave their boxes or fill them little: 0.25.
    """

    height: tuple[float, float]
    width: tuple[float, float]
    length: tuple[float, float]
    distance: float = 250.0
    overlap: float = 0.6


PLAUSIBLE = {
    "car": Plausible((0.9, 2.9), (0.9, 2.7), (1.8, 7.0)),
    "van": Plausible((1.3, 3.8), (1.2, 3.2), (2.5, 9.0)),
    "truck": Plausible((1.5, 5.5), (1.4, 4.0), (3.0, 35.0)),
    "tram": Plausible((2.2, 5.5), (1.6, 4.5), (2.5, 80.0)),
    "vehicle": Plausible((0.6, 6.0), (0.4, 5.0), (0.8, 40.0)),
    "pedestrian": Plausible((0.5, 2.5), (0.15, 2.2), (0.15, 2.2), 150.0, 0.2),
    "person_sitting": Plausible((0.5, 2.0), (0.2, 1.5), (0.2, 2.0), 150.0, 0.2),
    "cyclist": Plausible((0.8, 2.6), (0.2, 1.8), (0.8, 3.2), 150.0),
}
ANYTHING = Plausible((0.05, 30.0), (0.05, 30.0), (0.05, 150.0))


def plausible(kind: str) -> Plausible:
    """Of a class by its name in lower case."""
    return PLAUSIBLE.get(kind, ANYTHING)
