"""Sky and ground behind the bodies, at the image's own size."""

import functools

import cv2
import numpy as np

from qiml.data.synthetic.layout import Ground, Layout, Road
from qiml.data.synthetic.looks import Light
from qiml.data.synthetic.projection import clip_near, project

_FAR = 250.0
_TEXTURE = 256


@functools.cache
def noise_texture(seed: int, octaves: tuple[int, ...]) -> np.ndarray:
    """(257, 257) float32 smooth noise that tiles, of mean 0 and deviation 1; its ends are equal.

    Args:
        seed: of the texture; it is the same for every scene, only its use differs.
        octaves: number of grid cells across, coarse to fine, each counting less than the former.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((_TEXTURE, _TEXTURE), np.float32)
    for level, cells in enumerate(octaves):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        # Wrapping a border around the grid before enlarging makes the result tile.
        scale = _TEXTURE // cells
        grid = cv2.copyMakeBorder(grid, 2, 2, 2, 2, cv2.BORDER_WRAP)
        large = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += large[2 * scale : -2 * scale, 2 * scale : -2 * scale] * 0.7**level
    return cv2.copyMakeBorder((total - total.mean()) / total.std(), 0, 1, 0, 1, cv2.BORDER_WRAP)


def paint_surface(layout: Layout, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Sky, hills on the horizon, ground with its road, and the shadows on it.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    first, across, depth = _see_ground(layout)
    image = _paint_sky(layout, light, rng)
    _paint_hills(image, layout, light, rng)
    shadows = _shadows(layout, light)[first:].astype(np.float32) / 255
    ground = _paint_ground(depth, across * depth, shadows, layout, light, rng)
    cv2.copyTo(ground, (depth < _FAR).astype(np.uint8), image[first:])
    return image


def ground_depth(layout: Layout) -> np.ndarray:
    """(H, W) float32 metres along z at which each pixel shows the bare ground; 0 where there is none."""
    first, _, depth = _see_ground(layout)
    depth[depth >= _FAR] = 0
    return np.pad(depth, ((first, 0), (0, 0)))


def _see_ground(layout: Layout) -> tuple[int, np.ndarray, np.ndarray]:
    """First row with ground in it, (W,) x at 1 m depth of each column, and (rows, W) depth from there."""
    width, height = layout.size
    projection = layout.projection
    focal = projection[0, 0]
    across = ((np.arange(width) + 0.5 - projection[0, 2]) / focal).astype(np.float32)
    down = ((np.arange(height) + 0.5 - projection[1, 2]) / focal).astype(np.float32)
    first = _first_ground_row(layout.ground, across, down)
    return first, across, _ground_depth(layout.ground, across, down[first:])


def _first_ground_row(ground: Ground, across: np.ndarray, down: np.ndarray) -> int:
    highest = ground.slope + min(ground.cross * across[0], ground.cross * across[-1])
    row = int(np.searchsorted(down, highest + min(ground.curvature * _FAR, 0)))
    return min(row, len(down) - 1)


def _ground_depth(ground: Ground, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(rows, W) z at which each pixel's ray meets the ground; very large where it does not."""
    # Along a ray y = down z and x = across z: curvature z^2 - steep z + height = 0.
    steep = down[:, None] - np.float32(ground.slope) - np.float32(ground.cross) * across
    root = steep * steep - np.float32(4 * ground.height * ground.curvature)
    both = steep + np.sqrt(np.maximum(root, 0))
    depth = np.float32(2 * ground.height) / np.maximum(both, np.float32(1e-6))
    if ground.curvature > 0:  # beyond the crest of a hill no ray comes down
        depth[root < 0] = 1e6
    return depth


def _paint_sky(layout: Layout, light: Light, rng: np.random.Generator) -> np.ndarray:
    width, height = layout.size
    top = layout.projection[1, 2] + layout.projection[0, 0] * layout.ground.slope
    share = np.clip(np.arange(height) / max(top, 1), 0, 1)[:, None] ** 0.8
    sky = light.zenith + share * (light.horizon - light.zenith)
    texture = noise_texture(1, (4, 8, 16, 32))
    row, column = rng.integers(0, _TEXTURE // 2, 2)
    clouds = texture[row : row + 64, column : column + 128] * light.clouds * 40
    clouds = cv2.resize(clouds, (width, height)) * (1 - 0.7 * share).astype(np.float32)
    # Grey clouds on a colour that changes by row alone: each channel is one sum.
    return cv2.merge(
        [cv2.convertScaleAbs(clouds + sky[:, i : i + 1].astype(np.float32)) for i in range(3)]
    )


def _paint_hills(image: np.ndarray, layout: Layout, light: Light, rng: np.random.Generator) -> None:
    """A far line of woods or hills; the ground is painted over its foot."""
    width, height = layout.size
    columns = np.linspace(0, width, 33)
    rays = (columns - layout.projection[0, 2]) / layout.projection[0, 0]
    horizon = layout.ground.y(rays * _FAR, _FAR) / _FAR
    profile = noise_texture(2, (8, 16, 32))[rng.integers(_TEXTURE), :33]
    tall = rng.uniform(0.0, 0.05) * (1 + 0.4 * profile)
    rows = layout.projection[1, 2] + layout.projection[0, 0] * (horizon - np.maximum(tall, 0))
    outline = np.concatenate([np.stack([columns, rows], 1), [(width, height), (0, height)]])
    wood = np.array([60, 85, 55]) + rng.uniform(-25, 25, 3)
    haze = max(1 - np.exp(-_FAR / light.haze), 0.35)
    colour = wood * light.ambient * (1 - haze) + light.horizon * haze
    cv2.fillPoly(image, [(outline * 16).astype(np.int32)], colour.tolist(), cv2.LINE_AA, 4)


def _paint_ground(depth, aside, shadows, layout: Layout, light: Light, rng: np.random.Generator):
    """(rows, W, 3) uint8 colours of the ground at x = `aside` and z = `depth`, both (rows, W)."""
    road = layout.road
    focal = layout.projection[0, 0]
    depth = np.minimum(depth, np.float32(_FAR))
    pixel = depth / np.float32(focal)
    from_centre = aside - road.centre(depth).astype(np.float32)
    beside = np.abs(from_centre)

    def within(half_width: float) -> np.ndarray:
        return np.clip((np.float32(half_width) - beside) / pixel + 0.5, 0, 1)

    asphalt = within(road.half_width)
    walk = np.maximum(within(road.half_width + rng.choice((0.0, 1.5, 2.5))), asphalt)
    marks = _lane_marks(depth, from_centre, pixel, road, rng)
    # Detail finer than a pixel's footprint on the ground would flicker.
    footprint = depth * depth / np.float32(focal * layout.ground.height)
    grain = _spread(noise_texture(3, (32, 64, 128)), aside, depth, 10.0)
    stains = _spread(noise_texture(4, (4, 8, 16, 32)), aside, depth, 40.0)
    bright = 1 + np.float32(rng.uniform(0.04, 0.12)) * grain / (1 + 3 * footprint)
    bright += np.float32(rng.uniform(0.03, 0.10)) * stains / (1 + np.float32(0.3) * footprint)
    bright *= np.float32(light.ambient + (1 - light.ambient) * max(-light.sun[1], 0.0)) * shadows
    clear = cv2.exp(depth * np.float32(-1 / light.haze))
    bright *= clear
    # Each pixel's colour is linear in these shares: one small matrix does all channels at once.
    land_colour, asphalt_colour, walk_colour, paint = _ground_colours(rng)
    shares = cv2.merge(
        [bright, bright * walk, bright * asphalt, bright * asphalt * marks, 1 - clear]
    )
    colours = np.stack(
        [
            land_colour,
            walk_colour - land_colour,
            asphalt_colour - walk_colour,
            paint - asphalt_colour,
            light.horizon,
        ],
        axis=1,
    )
    return cv2.convertScaleAbs(cv2.transform(shares, colours.astype(np.float32)))


def _ground_colours(rng: np.random.Generator) -> list[np.ndarray]:
    """Colours of the land beside the road, the road, the pavement and the lane markings."""
    lands = ((85, 110, 60), (120, 125, 70), (150, 130, 95), (140, 138, 132))
    return [
        np.array(lands[rng.integers(len(lands))]) + rng.uniform(-20, 20, 3),
        rng.uniform(75, 140) + rng.uniform(-6, 6, 3),
        rng.uniform(130, 180) + rng.uniform(-10, 10, 3),
        np.full(3, rng.uniform(170, 235)),
    ]


def _spread(texture: np.ndarray, x: np.ndarray, z: np.ndarray, metres: float) -> np.ndarray:
    """The texture spread over the ground, one tile every `metres`."""
    x, z = ((a - np.floor(a)) * np.float32(_TEXTURE) for a in (x / metres, z / metres))
    return cv2.remap(texture, x, z, cv2.INTER_LINEAR)


def _lane_marks(depth, aside, pixel, road: Road, rng: np.random.Generator) -> np.ndarray:
    """(rows, W) share of each pixel that lane markings cover; `aside` is from the centre line."""
    lanes = [(0.0, rng.random() < 0.7)]
    if rng.random() < 0.7:
        lanes += [(side * (road.half_width - 0.4), False) for side in (-1, 1)]
    if road.half_width > 6:
        lanes += [(side * 3.4, True) for side in (-1, 1)]
    if rng.random() < 0.2:
        lanes = []
    width = np.float32(0.16)
    beat = (depth + np.float32(rng.uniform(0, 9))) / np.float32(9)
    dashes = np.where((depth > 45), np.float32(0.4), beat - np.floor(beat) < 0.4)
    most = np.minimum(width / pixel, 1)
    marks = np.zeros_like(depth)
    for centre, dashed in lanes:
        line = (width / 2 - np.abs(aside - np.float32(centre))) / pixel + np.float32(0.5)
        line = np.minimum(np.maximum(line, 0), most)
        marks += line * dashes if dashed else line
    return marks * np.float32(rng.uniform(0.5, 0.95))


def _shadows(layout: Layout, light: Light) -> np.ndarray:
    """(H, W) uint8 light under the bodies: what the sun casts, and the dark at their feet."""
    width, height = layout.size
    mask = np.full((height, width), 255, np.uint8)
    cast, contact = 255 * (1 - light.shadow), 255 * (1 - max(0.55, light.shadow))
    footprints = []
    for item in (*layout.scenery, *layout.objects):
        box = item.corners
        fall = (item.location[1] - box[4:, 1:2]) / -light.sun[1]
        fallen = box[4:] - light.sun * np.minimum(fall, 6 * item.dimensions[0])
        _fill_ground(mask, np.concatenate([box[:4], fallen]), layout.projection, cast)
        footprints.append(box[:4] + 0.06 * (box[:4] - item.location))
    for footprint in footprints:
        _fill_ground(mask, footprint, layout.projection, contact)
    return cv2.GaussianBlur(mask, (0, 0), max(0.8, width / 500))


def _fill_ground(
    mask: np.ndarray, points: np.ndarray, projection: np.ndarray, value: float
) -> None:
    """Fill the outline of points (n, 3) on the ground."""
    flat = cv2.convexHull(points[:, ::2].astype(np.float32), returnPoints=False)[:, 0]
    outline = clip_near(points[flat])
    if len(outline) >= 3:
        pixels = np.clip(project(outline, projection) * 16, -1e6, 1e6).astype(np.int32)
        cv2.fillConvexPoly(mask, pixels, value, cv2.LINE_8, 4)
