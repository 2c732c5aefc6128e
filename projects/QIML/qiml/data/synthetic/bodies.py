"""The bodies that appear in a scene: `BODIES[name]` holds the meshes of one kind of thing."""

import itertools
from dataclasses import dataclass

import numpy as np

from qiml.data.synthetic.meshes import Material as M
from qiml.data.synthetic.meshes import Mesh, MeshBuilder, band, rectangle


@dataclass(frozen=True)
class CarShape:
    """A car's side view in metres (from the rear bumper, and from the ground).

    Attributes:
        size: h, w, l.
        tail, belt, nose: height of the lower body at the rear, along the windows and at the front.
        cabin: where the cabin begins and ends at the belt line.
        roof: where the roof begins and ends.
        windows: number of side windows; 0 leaves only the front doors' (a panel van).
    """

    size: tuple[float, float, float]
    tail: float
    belt: float
    nose: float
    cabin: tuple[float, float]
    roof: tuple[float, float]
    windows: int = 2


CAR_SHAPES = {
    "hatchback": CarShape((1.48, 1.68, 3.8), 0.84, 0.92, 0.72, (0.10, 2.85), (0.40, 2.10)),
    "sedan": CarShape((1.44, 1.74, 4.5), 0.88, 0.92, 0.70, (0.55, 3.25), (1.20, 2.50)),
    "estate": CarShape((1.47, 1.74, 4.6), 0.86, 0.92, 0.70, (0.08, 3.35), (0.35, 2.55), 3),
    "minivan": CarShape((1.68, 1.78, 4.3), 0.92, 1.00, 0.80, (0.06, 3.60), (0.25, 2.50), 3),
    "suv": CarShape((1.70, 1.82, 4.4), 1.00, 1.06, 0.92, (0.08, 3.15), (0.35, 2.40)),
    "coupe": CarShape((1.36, 1.72, 4.2), 0.86, 0.88, 0.66, (0.45, 2.95), (1.30, 2.15), 1),
    "pickup": CarShape((1.70, 1.80, 5.0), 1.00, 1.05, 0.92, (1.75, 3.70), (1.95, 3.10)),
    "van": CarShape((2.10, 1.90, 4.9), 1.05, 1.15, 0.95, (0.04, 4.35), (0.14, 3.55), 0),
    "minibus": CarShape((2.10, 1.90, 5.1), 1.05, 1.15, 0.95, (0.04, 4.50), (0.14, 3.70), 4),
}
_WHEEL_RADIUS = 0.32


def _car(shape: CarShape) -> Mesh:
    """Wheels, then the lower body with its details, then the cabin: each hides what was before."""
    _, width, length = shape.size
    half = width / 2
    builder = MeshBuilder()
    axles = (0.20 * length, 0.81 * length)
    for axle in axles:
        for side in (-1, 1):
            builder.box(
                (axle, _WHEEL_RADIUS * 0.75, side * (half - 0.13)),
                (_WHEEL_RADIUS * 1.5, _WHEEL_RADIUS * 1.5, 0.22),
                M.TYRE,
            )
    _lower_body(builder, shape)
    for axle in axles:
        for side in (-1, 1):
            left = side * (half - 0.005)
            _wheel(builder, (axle, _WHEEL_RADIUS, left), 1.16, M.DARK)
            _wheel(builder, (axle, _WHEEL_RADIUS, left), 1.0, M.TYRE)
            _wheel(builder, (axle, _WHEEL_RADIUS, left), 0.62, M.RIM)
    _cabin(builder, shape)
    return builder.build(layered=True)


def _lower_body(builder: MeshBuilder, shape: CarShape) -> None:
    _, width, length = shape.size
    half = width / 2
    front = shape.cabin[1]
    stations = (  # along, bottom, top, half width
        (0.0, 0.34, shape.tail - 0.10, half * 0.88),
        (0.12, 0.22, shape.tail, half * 0.97),
        (shape.cabin[0] + 0.3, 0.18, shape.belt, half),
        (front - 0.15, 0.18, shape.belt, half),
        (length - 0.25, 0.20, shape.nose + 0.06, half * 0.96),
        (length, 0.30, shape.nose - 0.10, half * 0.84),
    )
    rings = []
    for along, bottom, top, reach in stations:
        waist = bottom + 0.55 * (top - bottom)
        outline = ((bottom, 0.94), (waist, 1.0), (top, 0.93))
        right = [(along, up, -share * reach) for up, share in outline]
        left = [(along, up, share * reach) for up, share in reversed(outline)]
        rings.append(right + left)
    builder.begin_part()
    builder.prism(rings, M.PAINT)
    for along, (bottom, top), half_width, lamps in (
        (0.0, (0.34, shape.tail - 0.10), half * 0.86, M.TAILLIGHT),
        (length, (0.30, shape.nose - 0.10), half * 0.82, M.HEADLIGHT),
    ):
        _panel(builder, along, (-half_width, half_width), (bottom, bottom + 0.10), M.DARK)
        for side in (-1, 1):
            span = (side * half_width * 0.58, side * half_width)
            _panel(builder, along, span, (top - 0.20, top - 0.02), lamps)
        _panel(builder, along, (-0.26, 0.26), (bottom + 0.12, bottom + 0.23), M.PLATE)
    grille = shape.nose - 0.24, shape.nose - 0.13
    _panel(builder, length, (-half * 0.45, half * 0.45), grille, M.DARK)


def _cabin(builder: MeshBuilder, shape: CarShape) -> None:
    height, width, _ = shape.size
    (roof_rear, roof_front), crown = shape.roof, height - 0.05
    rounding = 0.12 * (roof_front - roof_rear)
    base = rectangle(*shape.cabin, shape.belt, width * 0.465)
    top = rectangle(roof_rear, roof_front, crown, width * 0.37)
    roof = rectangle(roof_rear + rounding, roof_front - rounding, height, width * 0.325)
    builder.begin_part()
    builder.prism([base, top, roof], M.PAINT)
    right, windscreen, left, rear_window = (band(base, top, side) for side in range(4))
    builder.patch(windscreen, (0.05, 0.95), (0.06, 0.93), M.GLASS)
    builder.patch(rear_window, (0.08, 0.92), (0.12, 0.90), M.GLASS)
    for start, end in _window_spans(shape.windows):
        builder.patch(right, (start, end), (0.08, 0.88), M.GLASS)
        builder.patch(left, (1 - end, 1 - start), (0.08, 0.88), M.GLASS)


def _window_spans(windows: int) -> list[tuple[float, float]]:
    """Where side windows begin and end as shares of the cabin, from the rear."""
    if not windows:
        return [(0.70, 0.96)]
    width = 0.92 / windows
    return [(0.04 + i * width + 0.012, 0.04 + (i + 1) * width - 0.012) for i in range(windows)]


def _panel(builder: MeshBuilder, along: float, lefts, ups, material: int) -> None:
    """A rectangle on the body's front or rear end."""
    corners = [(along, ups[i], lefts[j]) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))]
    builder.face(corners, material)


def _wheel(builder: MeshBuilder, hub, scale: float, material: int) -> None:
    """A disc on the side; `scale` times a wheel's radius, but not below the ground."""
    angle = np.arange(10) * np.pi / 5
    circle = np.stack([np.cos(angle), np.maximum(np.sin(angle), -1 / scale), 0 * angle], axis=1)
    builder.face(circle * _WHEEL_RADIUS * scale + hub, material)


def _truck(cargo_height: float) -> Mesh:
    """A cab and a cargo box on wheels."""
    builder = MeshBuilder()
    for axle in (1.2, 2.4, 7.3):
        builder.box((axle, 0.45, 0), (0.9, 0.9, 2.3), M.TYRE)
    builder.box((4.3, 0.85, 0), (8.4, 0.3, 2.0), M.DARK)
    low, waist = rectangle(6.6, 8.6, 0.5, 1.2), rectangle(6.6, 8.6, 1.7, 1.2)
    roof = rectangle(6.6, 8.35, 2.9, 1.14)
    builder.begin_part()
    builder.prism([low, waist, roof], M.PAINT)
    for side, across in enumerate(((0.35, 0.92), (0.06, 0.94), (0.08, 0.65))):
        builder.patch(band(waist, roof, side), across, (0.05, 0.78), M.GLASS)
    for side in (-1, 1):
        _panel(builder, 8.6, (side * 0.7, side * 1.1), (0.75, 1.0), M.HEADLIGHT)
    _panel(builder, 8.6, (-0.6, 0.6), (0.8, 1.4), M.DARK)
    builder.box((3.2, 1.0 + cargo_height / 2, 0), (6.4, cargo_height, 2.5), M.TRIM)
    for side in (-1, 1):
        _panel(builder, 0.0, (side * 0.8, side * 1.2), (1.02, 1.3), M.TAILLIGHT)
        _panel(builder, 0.0, (side * 0.02, side * 1.18), (1.4, 0.9 + cargo_height), M.RIM)
    return builder.build(layered=True)


def _pedestrian(stride: float, swing: float) -> Mesh:
    """A walking or standing person; `stride` in metres between the feet."""
    builder = MeshBuilder()
    for side, phase in ((-1, 1), (1, -1)):
        hip, knee = (0, 0.90, side * 0.10), (phase * stride * 0.32, 0.48, side * 0.10)
        foot = (phase * stride * 0.5 - 0.04, 0.06, side * 0.10)
        builder.limb(hip, knee, (0.095, 0.075), M.TRIM, sides=5)
        builder.limb(knee, foot, (0.075, 0.055), M.TRIM, sides=5)
        builder.box((foot[0] + 0.06, 0.04, side * 0.10), (0.26, 0.08, 0.10), M.DARK)
        shoulder, elbow = (0, 1.42, side * 0.22), (-phase * swing * 0.4, 1.14, side * 0.26)
        hand = (-phase * swing + 0.06, 0.88, side * 0.25)
        builder.limb(shoulder, elbow, (0.06, 0.05), M.PAINT, sides=5)
        builder.limb(elbow, hand, (0.05, 0.04), M.SKIN if swing > 0.3 else M.PAINT, sides=5)
    builder.limb((0, 0.84, 0), (0, 1.05, 0), (0.17, 0.155), M.TRIM, flat=0.7)
    builder.limb((0, 1.05, 0), (0, 1.48, 0), (0.165, 0.20), M.PAINT, flat=0.6)
    _head(builder, (0.02, 1.64, 0))
    return builder.build(layered=False)


def _head(builder: MeshBuilder, centre) -> None:
    forward, up, left = centre
    builder.limb(
        (forward - 0.02, up - 0.2, left), (forward, up, left), (0.06, 0.06), M.SKIN, sides=5
    )
    builder.blob(centre, (0.20, 0.25, 0.17), M.SKIN, sides=6)
    builder.blob((forward - 0.03, up + 0.04, left), (0.20, 0.22, 0.19), M.HAIR, sides=6)


def _sitting_person() -> Mesh:
    builder = MeshBuilder()
    builder.box((-0.05, 0.22, 0), (0.42, 0.42, 0.42), M.DARK)
    for side in (-1, 1):
        builder.limb((0, 0.5, side * 0.1), (0.42, 0.5, side * 0.1), (0.09, 0.08), M.TRIM, sides=5)
        builder.limb(
            (0.42, 0.5, side * 0.1), (0.42, 0.05, side * 0.1), (0.07, 0.06), M.TRIM, sides=5
        )
        builder.limb(
            (0, 0.98, side * 0.22), (0.2, 0.7, side * 0.26), (0.06, 0.05), M.PAINT, sides=5
        )
    builder.limb((0, 0.45, 0), (-0.02, 1.05, 0), (0.17, 0.19), M.PAINT, flat=0.65)
    _head(builder, (0.0, 1.18, 0))
    return builder.build(layered=False)


def _cyclist(pedal: float) -> Mesh:
    """A rider on a bicycle; `pedal` shifts the feet."""
    builder = MeshBuilder()
    for hub in (-0.52, 0.52):
        _bicycle_wheel(builder, hub)
    tubes = (
        ((-0.52, 0.34), (-0.12, 0.30)), ((-0.12, 0.30), (-0.22, 0.85)),
        ((-0.12, 0.30), (0.36, 0.75)), ((-0.20, 0.75), (0.36, 0.78)),
        ((0.36, 0.95), (0.52, 0.34)), ((-0.52, 0.34), (-0.20, 0.75)),
    )  # fmt: skip
    for (a, up_a), (b, up_b) in tubes:
        builder.limb((a, up_a, 0), (b, up_b, 0), (0.025, 0.025), M.RIM, sides=4)
    builder.box((0.34, 1.0, 0), (0.06, 0.05, 0.56), M.DARK)
    for side, phase in ((-1, 1), (1, -1)):
        hip, foot = (
            (-0.2, 0.92, side * 0.1),
            (-0.02 + phase * pedal, 0.26 + phase * pedal, side * 0.12),
        )
        knee = (0.18 + phase * pedal * 0.4, 0.68 + phase * pedal * 0.8, side * 0.13)
        builder.limb(hip, knee, (0.095, 0.07), M.TRIM, sides=5)
        builder.limb(knee, foot, (0.07, 0.05), M.TRIM, sides=5)
        builder.box((foot[0] + 0.05, foot[1] - 0.05, foot[2]), (0.24, 0.08, 0.1), M.DARK)
        shoulder, elbow = (0.1, 1.42, side * 0.2), (0.2, 1.18, side * 0.25)
        builder.limb(shoulder, elbow, (0.06, 0.05), M.PAINT, sides=5)
        builder.limb(elbow, (0.34, 1.03, side * 0.25), (0.05, 0.04), M.SKIN, sides=5)
    builder.limb((-0.2, 0.88, 0), (0.1, 1.46, 0), (0.16, 0.19), M.PAINT, flat=0.65)
    _head(builder, (0.18, 1.62, 0))
    return builder.build(layered=False)


def _bicycle_wheel(builder: MeshBuilder, hub: float) -> None:
    builder.begin_part()
    angle = np.arange(11) * np.pi / 5
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    outer, inner = (circle * radius + np.array([hub, 0.34, 0]) for radius in (0.34, 0.28))
    for i in range(10):
        builder.face(band(outer, inner, i), M.TYRE, two_sided=True)
    tread = [(hub, up, left) for up, left in ((0, -0.03), (0, 0.03), (0.68, 0.03), (0.68, -0.03))]
    builder.face(tread, M.TYRE, two_sided=True)


def _building(floors: int, columns: int, gable: bool) -> Mesh:
    """A house: PAINT walls, GLASS windows, TRIM roof."""
    builder = MeshBuilder()
    low, high = rectangle(-5, 5, 0, 5), rectangle(-5, 5, 10, 5)
    builder.begin_part()
    builder.prism([low, high], M.PAINT, caps=(False, not gable))
    for side, floor, column in itertools.product(range(4), range(floors), range(columns)):
        across = (column + 0.25) / columns, (column + 0.75) / columns
        up = (floor + 0.3) / floors, (floor + 0.8) / floors
        builder.patch(band(low, high, side), across, up, M.GLASS)
    if gable:
        builder.begin_part()
        roof = [rectangle(-5.2, 5.2, 10, 5.2), rectangle(-5.2, 5.2, 14, 0.1)]
        # Seen from below, a closed underside would hide the walls.
        builder.prism(roof, M.TRIM, caps=(False, False))
    return builder.build(layered=True)


def _tree(rng: np.random.Generator, lumps: int) -> Mesh:
    builder = MeshBuilder()
    builder.limb((0, 0, 0), (0, 3, 0), (0.16, 0.10), M.TRIM)
    for _ in range(lumps):
        builder.blob(rng.normal((0, 4, 0), (0.7, 0.6, 0.7)), rng.uniform(1.4, 2.6, 3), M.PAINT)
    return builder.build(layered=False)


def _bush(rng: np.random.Generator) -> Mesh:
    builder = MeshBuilder()
    for along in (-0.6, 0.0, 0.6):
        builder.blob((along, 0.45, 0), rng.uniform(0.8, 1.2, 3), M.PAINT)
    return builder.build(layered=False)


def _lamp_post() -> Mesh:
    builder = MeshBuilder()
    builder.limb((0, 0, 0), (0, 6, 0), (0.09, 0.06), M.PAINT)
    builder.box((0.0, 6.05, 0.0), (0.30, 0.12, 0.30), M.TRIM)
    return builder.build(layered=False)


def _sign() -> Mesh:
    builder = MeshBuilder()
    builder.limb((0, 0, 0), (0, 1.7, 0), (0.05, 0.05), M.RIM, sides=5)
    builder.box((0, 2.1, 0), (0.08, 0.8, 0.8), M.PAINT)
    _panel(builder, 0.04, (-0.25, 0.25), (1.85, 2.35), M.TRIM)
    return builder.build(layered=True)


def _crate() -> Mesh:
    builder = MeshBuilder()
    builder.box((0, 0.5, 0), (1, 1, 1), M.PAINT)
    for up in (0.3, 0.7):
        for along in (-0.5, 0.5):
            _panel(builder, along, (-0.5, 0.5), (up - 0.05, up + 0.05), M.TRIM)
    return builder.build(layered=True)


def _all_bodies() -> dict[str, tuple[Mesh, ...]]:
    # A fixed generator: bodies are part of the program, not of a scene.
    rng = np.random.default_rng(0)
    bodies = {name: (_car(shape),) for name, shape in CAR_SHAPES.items()}
    return bodies | {
        "truck": (_truck(2.0), _truck(2.4), _truck(0.9)),
        "pedestrian": tuple(
            _pedestrian(*pose) for pose in ((0.7, 0.3), (0.5, 0.2), (0.25, 0.35), (0.12, 0.05))
        ),
        "cyclist": tuple(_cyclist(pedal) for pedal in (0.12, -0.12, 0.03)),
        "person_sitting": (_sitting_person(),),
        "building": tuple(
            _building(*a)
            for a in ((2, 4, True), (3, 5, False), (4, 6, False), (5, 3, False), (2, 3, True))
        ),
        "tree": tuple(_tree(rng, lumps) for lumps in (4, 6, 8)),
        "bush": tuple(_bush(rng) for _ in range(2)),
        "lamp_post": (_lamp_post(),),
        "sign": (_sign(),),
        "crate": (_crate(),),
    }


BODIES = _all_bodies()
