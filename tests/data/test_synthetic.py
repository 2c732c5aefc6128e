import itertools
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from shapely.geometry import Polygon

from qiml.data.kitti_format import KITTIObjects
from qiml.data.synthetic import render_scene
from qiml.data.synthetic import statistics as st
from qiml.data.synthetic.bodies import BODIES, CAR_SHAPES
from qiml.data.synthetic.depth import draw_depth
from qiml.data.synthetic.footprints import paint_order
from qiml.data.synthetic.layout import Ground, Item, Layout, Road
from qiml.data.synthetic.looks import Light
from qiml.data.synthetic.placement import SCENERY, sample_layout
from qiml.data.synthetic.render import Faces, collect_faces, draw_bodies
from qiml.data.synthetic.scene import label_objects
from qiml.structures.camera import Camera

ROOT = Path(__file__).resolve().parents[2]
SIZE = (416, 128)
PROJECTION = np.array([[240.0, 0, 208, 15], [0, 240, 60, 0.1], [0, 0, 1, 0.003]])
DAY = Light(
    sun=np.array([0.0, -1, 0]),
    ambient=0.6,
    zenith=np.full(3, 200.0),
    horizon=np.full(3, 200.0),
    clouds=0.0,
    haze=1e6,
    shadow=0.3,
)
BODY_CLASSES = {"Car": CAR_SHAPES, "Van": ("van", "minibus"), "Truck": ("truck",)} | {
    name: (name.lower(),) for name in st.PEOPLE
}


def stand(kind, body, dimensions, x, z, yaw, y=1.6) -> Item:
    return Item(kind, body, np.array(dimensions, dtype=float), np.array([x, y, z]), yaw)


def car(x, z, yaw=-math.pi / 2) -> Item:
    return stand("Car", "hatchback", (1.5, 1.65, 3.8), x, z, yaw)


def lay_out(objects, scenery=(), size=SIZE, projection=PROJECTION):
    ground, road = Ground(1.6, 0, 0, 0), Road(0, 0, 0, 5)
    return Layout(size, projection, ground, road, list(objects), list(scenery))


def draw(objects, scenery=(), size=SIZE, projection=PROJECTION):
    """The bodies on black, and their labels."""
    layout = lay_out(objects, scenery, size, projection)
    black = np.zeros((size[1], size[0], 3), np.uint8)
    faces = collect_faces(layout, DAY, np.random.default_rng(0))
    image, visible = draw_bodies(black, layout, faces)
    return image, label_objects(layout.objects, visible, projection, size)


def projected_pixel(point, projection=PROJECTION):
    x, y, z = projection @ [*point, 1]
    return x / z, y / z


def projected_box(objects: KITTIObjects, index: int, projection: np.ndarray) -> np.ndarray:
    """Box around the projected corners of a label, straight from KITTI's definition."""
    h, w, l = objects.dimensions[index]  # noqa: E741
    yaw = objects.rotation_y[index]
    corners = np.array(list(itertools.product((-l / 2, l / 2), (-h, 0), (-w / 2, w / 2)))).T
    turn = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    points = np.array(turn) @ corners + objects.location[index][:, None]
    x, y, z = projection @ np.concatenate([points, np.ones((1, 8))])
    return np.array([(x / z).min(), (y / z).min(), (x / z).max(), (y / z).max()])


def iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = np.prod(np.maximum(sides, 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return common / (sum(areas) - common)


@pytest.fixture(scope="module")
def frames():
    return [render_scene(7, index, SIZE) for index in range(160)]


@pytest.fixture(scope="module")
def layouts():
    return [sample_layout(np.random.default_rng((3, index)), SIZE) for index in range(500)]


class TestFrame:
    def test_is_a_function_of_seed_index_and_size(self):
        one, again = render_scene(1, 2), render_scene(1, 2)
        np.testing.assert_array_equal(one.image, again.image)
        np.testing.assert_array_equal(one.objects.values, again.objects.values)
        for other in (render_scene(2, 2), render_scene(1, 3)):
            assert np.mean(one.image != other.image) > 0.5

    @pytest.mark.parametrize("size", [(640, 192), (300, 100), (1242, 375), (128, 256), (33, 32)])
    def test_any_size(self, size):
        for index in range(4):
            frame = render_scene(0, index, size)
            assert frame.image.shape == (size[1], size[0], 3) and frame.image.dtype == np.uint8
            assert frame.image.std() > 5
            boxes = frame.objects.bbox
            assert np.all(boxes >= 0) and np.all(boxes <= (*size, *size))
            assert np.all(boxes[:, :2] < boxes[:, 2:])

    def test_labels_agree_with_the_camera(self, frames):
        checked = 0
        for frame in frames:
            objects = frame.objects[frame.objects.types != "DontCare"]
            x, z = objects.location[:, 0], objects.location[:, 2]
            error = objects.rotation_y - np.arctan2(x, z) - objects.alpha
            np.testing.assert_allclose(np.sin(error / 2), 0, atol=1e-9)
            assert np.all(np.abs(objects.rotation_y) <= np.pi)
            assert np.all(np.abs(objects.alpha) <= np.pi)
            for i in np.flatnonzero(z > 4):
                whole = projected_box(objects, i, frame.projection)
                seen = np.clip(whole, 0, (*SIZE, *SIZE))
                assert iou(objects.bbox[i], seen) > 0.999
                outside = 1 - np.prod(seen[2:] - seen[:2]) / np.prod(whole[2:] - whole[:2])
                assert objects.truncation[i] == pytest.approx(outside, abs=1e-6)
                checked += 1
        assert checked > 600

    def test_objects_stand_apart_on_the_ground(self, layouts):
        for layout in layouts[:150]:
            bases = [Polygon(item.footprint) for item in (*layout.objects, *layout.scenery)]
            assert all(not a.intersects(b) for a, b in itertools.combinations(bases, 2))
            for item in layout.objects:
                x, y, z = item.location
                assert abs(y - layout.ground.y(x, z)) < 6 * st.CONTACT_DEVIATION


class TestDrawing:
    @pytest.mark.parametrize("kind", st.CLASSES)
    def test_bodies_fill_their_boxes(self, kind):
        # Cars fill it from every side; a flatbed lorry and limbs leave corners empty.
        least = {"Car": 0.88, "Van": 0.88, "Truck": 0.75}.get(kind, 0.6)
        rng = np.random.default_rng(1)
        for body, yaw in itertools.product(BODY_CLASSES[kind], np.linspace(-3, 3, 7)):
            item = stand(kind, body, st.STATISTICS[kind].mean, rng.uniform(-3, 3), 16, yaw)
            image, objects = draw([item])
            rows, columns = np.nonzero(image.max(axis=2))
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert iou(drawn, objects.bbox[0]) > least, (body, yaw)
            assert np.all(drawn[:2] >= objects.bbox[0, :2] - 1.01), (body, yaw)
            assert np.all(drawn[2:] <= objects.bbox[0, 2:] + 1.01), (body, yaw)

    @pytest.mark.parametrize("shape", CAR_SHAPES)
    def test_rear_lamps_tell_the_heading(self, shape):
        def red(yaw):
            image, _ = draw([stand("Car", shape, (1.5, 1.65, 4), 0, 9, yaw)])
            r, g, b = np.moveaxis(image.astype(int), 2, 0)
            return np.sum((r > 90) & (g < 50) & (b < 50))

        assert red(-math.pi / 2) > red(math.pi / 2) + 20  # -pi/2: the same way as the camera

    def test_occlusion_levels(self):
        def level(*objects, scenery=()):
            labels = draw(objects, scenery)[1]
            at = np.flatnonzero(labels.location[:, 2] == objects[0].location[2])
            return labels.occlusion[at[0]] if len(at) else None

        far = car(0, 25)
        assert level(far) == 0
        assert level(far, car(-5, 12)) == 0
        assert level(far, car(0, 40)) == 0  # behind
        assert level(far, car(-1.0, 15)) == 1
        assert level(far, car(-0.5, 15)) == 2
        assert level(far, car(0, 15)) in (2, 3)  # its roof shows
        wall = stand("crate", "crate", (4, 8, 0.5), 0, 15, -math.pi / 2)
        assert level(far, scenery=[wall]) is None
        post = stand("crate", "crate", (4, 0.3, 0.3), 0, 15, -math.pi / 2)
        assert level(far, scenery=[post]) == 1

    def test_far_vehicles_are_dont_care_regions(self):
        far = stand("DontCare", "sedan", (1.5, 1.65, 4), 2, 80, 0.3)
        objects = draw([far, car(-3, 20)])[1]
        assert objects.types.tolist() == ["Car", "DontCare"]
        region = objects[1:]
        assert (region.location == -1000).all() and region.alpha == -10
        assert region.truncation == -1 and region.occlusion == -1
        assert np.all(region.bbox[:, 2:] > region.bbox[:, :2])

    def test_objects_partly_behind_the_camera(self):
        beside = car(-2.2, 2.0)
        image, objects = draw([beside])
        assert image[:, :60].max() > 0 and image[:, 250:].max() == 0
        assert objects.truncation[0] > 0.5 and objects.bbox[0, 0] == 0

    def test_long_lorry_hides_the_car_beside_its_rear(self):
        # The car's centre is nearer to the camera than the lorry's, yet the lorry is in front.
        lorry = stand("Truck", "truck", (3.4, 2.6, 12), 4, 18, -math.pi / 2)
        hidden = car(8, 15.5)
        assert np.hypot(8, 15.5) < np.hypot(4, 18)
        for items in ([lorry, hidden], [hidden, lorry]):
            order = [items[i] for i in paint_order(np.stack([item.footprint for item in items]))]
            assert order == [hidden, lorry]

    def test_painting_order_agrees_with_rays(self):
        """Where a ray meets two footprints, the one that it meets first is painted last."""
        rng = np.random.default_rng(0)
        met = 0
        for _ in range(60):
            layout = sample_layout(rng, SIZE)
            bases = np.stack([item.footprint for item in layout.objects])
            rank = np.argsort(paint_order(bases))
            for angle in rng.uniform(-0.7, 0.7, 20):
                hits = _ray_distances(bases, angle)
                crossed = sorted((d, i) for i, d in enumerate(hits) if np.isfinite(d))
                ranks = [rank[i] for _, i in crossed]
                assert ranks == sorted(ranks, reverse=True)
                met += len(crossed) > 1
        assert met > 100

    def test_depth_of_bodies_and_ground(self):
        """A car's rear as far away as its label says; level ground where the rays meet it; then sky."""
        layout = lay_out([car(0, 12.0)])
        depth = draw_depth(layout, collect_faces(layout, DAY, np.random.default_rng(0)))
        assert depth.shape == SIZE[::-1] and depth.dtype == np.float32
        u, v = (int(x) for x in projected_pixel([0, 1.6 - 0.6, 12 - 1.9]))
        assert depth[v, u] == pytest.approx(12 - 3.8 / 2, abs=0.3)
        column, row = (int(x) for x in projected_pixel([3.0, 1.6, 9.0]))
        assert depth[row, column] == pytest.approx(1.6 * 240 / (row + 0.5 - 60), rel=1e-3)
        assert not depth[:60].any(axis=1)[:30].any()

    def test_depth_of_bodies_lies_within_their_boxes(self):
        """Wherever a body is shown, of every kind, and turned anyhow."""
        for yaw in (-math.pi / 2, 0.4, 2.0):
            for kind, bodies in BODY_CLASSES.items():
                item = stand(kind, next(iter(bodies)), (1.6, 1.5, 3.0), 1.0, 10.0, yaw)
                layout = lay_out([item])
                faces = collect_faces(layout, DAY, np.random.default_rng(0))
                changed = draw_depth(layout, faces) != draw_depth(layout, faces[[]])
                found = draw_depth(layout, faces)[changed]
                assert len(found) > 100
                near, far = item.corners[:, 2].min(), item.corners[:, 2].max()
                assert near - 0.05 < found.min() < near + 1.2 and found.max() < far + 0.05

    def test_depth_of_a_slanted_face(self):
        """Every pixel of it, back-projected, lies in its plane, z = 10 + x / 2."""
        corners = np.array([(-4, -1, 8), (4, -1, 12), (4, 1, 12), (-4, 1, 8)], float)[None]
        projection = PROJECTION + np.outer([40, 9, 0.1], [0, 0, 0, 1])
        faces = Faces(corners, np.zeros((1, 3)), np.zeros(1, int))
        layout = lay_out([], projection=projection)
        depth = draw_depth(layout, faces)
        shown = depth != draw_depth(layout, faces[[]])
        assert shown.sum() > 4000
        rows, columns = np.nonzero(shown)
        pixels = torch.from_numpy(np.stack([columns, rows], axis=1) + 0.5)
        seen = torch.from_numpy(depth[shown]).double()
        points = Camera(torch.from_numpy(projection)).back_project(pixels, seen)
        inside = (
            points[:, 0].abs() < 3.9
        )  # beside the outline, within a pixel, depth is the corner's
        assert inside.sum() > 4000
        assert (points[:, 2] - 10 - points[:, 0] / 2)[inside].abs().max() < 1e-3

    def test_depth_hides_what_is_behind(self):
        layout = lay_out([car(0, 20.0), car(0.2, 10.0)])
        depth = draw_depth(layout, collect_faces(layout, DAY, np.random.default_rng(0)))
        u, v = (int(x) for x in projected_pixel([0, 1.0, 18.1]))
        assert depth[v, u] < 12

    def test_every_kind_of_body_can_be_drawn(self):
        used = {*itertools.chain.from_iterable(BODY_CLASSES.values())}
        assert used | {kind.body for kind in SCENERY} == set(BODIES)
        for kind in SCENERY:
            item = stand(kind.body, kind.body, kind.largest, 0, 40, 0.2)
            assert draw([], [item])[0].max() > 0


def _ray_distances(footprints: np.ndarray, angle: float) -> np.ndarray:
    """(N,) distance at which the ray at `angle` from the z axis enters each convex polygon."""
    direction = np.array([math.sin(angle), math.cos(angle)])
    along = footprints @ direction
    across = footprints @ (direction[1], -direction[0])
    distances = np.full(len(footprints), np.inf)
    for i, j in itertools.product(range(len(footprints)), range(4)):
        (a0, a1), (d0, d1) = across[i, [j, j - 1]], along[i, [j, j - 1]]
        if a0 * a1 < 0 and (distance := d0 + (d1 - d0) * a0 / (a0 - a1)) > 0:
            distances[i] = min(distances[i], distance)
    return distances


class TestStatistics:
    """Against summaries of KITTI's labels (3098 frames)."""

    @pytest.mark.parametrize(
        ("name", "per_frame"),
        [("Car", 4.24), ("Pedestrian", 0.78), ("Cyclist", 0.19), ("Van", 0.41), ("Truck", 0.15)],
    )
    def test_objects_a_frame(self, layouts, name, per_frame):
        counts = np.array([sum(i.kind == name for i in layout.objects) for layout in layouts])
        noise = counts.std() / math.sqrt(len(layouts))
        assert counts.mean() == pytest.approx(per_frame, abs=0.06 * per_frame + 2.5 * noise)

    def test_spread_of_the_number_of_cars(self, layouts):
        counts = np.array([sum(i.kind == "Car" for i in layout.objects) for layout in layouts])
        assert counts.var() / counts.mean() == pytest.approx(2.53, abs=0.6)
        assert np.mean(counts == 0) == pytest.approx(0.07, abs=0.03)

    @pytest.mark.parametrize(
        ("name", "quantiles", "tolerance"),
        [
            ("Car", (17.3, 27.7, 40.7), 0.1),
            ("Van", (19.2, 32.1, 50.4), 0.25),
            ("Pedestrian", (9.6, 14.8, 21.2), 0.25),
            ("Cyclist", (13.7, 19.1, 29.1), 0.3),  # some 100, in groups
        ],
    )
    def test_depth(self, layouts, name, quantiles, tolerance):
        z = [i.location[2] for layout in layouts for i in layout.objects if i.kind == name]
        found = np.quantile(z, (0.25, 0.5, 0.75))
        np.testing.assert_allclose(found, quantiles, rtol=tolerance)

    @pytest.mark.parametrize(
        ("name", "mean", "deviation"),
        [
            ("Car", (1.518, 1.625, 3.890), (0.127, 0.103, 0.418)),
            ("Pedestrian", (1.743, 0.701, 0.842), (0.114, 0.153, 0.231)),
            ("Cyclist", (1.731, 0.616, 1.748), (0.088, 0.161, 0.132)),
        ],
    )
    def test_sizes(self, name, mean, deviation):
        rng = np.random.default_rng(0)
        sizes = np.array([st.draw_dimensions(rng, name) for _ in range(4000)])
        np.testing.assert_allclose(sizes.mean(axis=0), mean, rtol=0.02)
        np.testing.assert_allclose(sizes.std(axis=0), deviation, rtol=0.12)
        hl = np.corrcoef(sizes.T)[0, 2]
        assert hl == pytest.approx(st.STATISTICS[name].correlation[1], abs=0.06)

    def test_directions_of_cars(self, layouts):
        yaw = np.array(
            [i.rotation_y for layout in layouts for i in layout.objects if i.kind == "Car"]
        )
        same = np.mean(np.abs(yaw + math.pi / 2) < 0.4)
        opposite = np.mean(np.abs(yaw - math.pi / 2) < 0.4)
        assert same == pytest.approx(0.46, abs=0.07)
        assert opposite == pytest.approx(0.36, abs=0.07)

    def test_occlusion_and_truncation_of_cars(self, frames):
        objects = KITTIObjects.concatenate([frame.objects for frame in frames])
        cars = objects[objects.types == "Car"]
        shares = [np.mean(cars.occlusion == level) for level in range(4)]
        np.testing.assert_allclose(shares, (0.486, 0.313, 0.182, 0.019), atol=0.12)
        assert np.mean(cars.truncation > 0.005) == pytest.approx(0.126, abs=0.04)
        regions = np.sum(objects.types == "DontCare") / len(frames)
        assert regions == pytest.approx(2.3, abs=0.4)

    def test_height_in_the_image(self, frames):
        objects = KITTIObjects.concatenate([frame.objects for frame in frames])
        boxes = objects.bbox[objects.types == "Car"]
        heights = (boxes[:, 3] - boxes[:, 1]) * 1242 / SIZE[0]
        found = np.quantile(heights, (0.05, 0.25, 0.5, 0.75))
        np.testing.assert_allclose(found, (17.8, 28.6, 42.9, 72.0), rtol=0.15)

    def test_ground_contact_is_an_imperfect_cue(self, layouts):
        places = [i.location for layout in layouts for i in layout.objects if i.kind == "Car"]
        _, y, z = np.array(places).T
        for nearest, farthest, deviation in ((8, 15, 0.18), (25, 35, 0.44), (50, 80, 0.59)):
            spread = y[(z > nearest) & (z < farthest)].std()
            assert spread == pytest.approx(deviation, rel=0.35)

    def test_against_the_labels_themselves(self, real_data, layouts, tmp_path):
        archive = real_data / "kitti_labels.tar.gz"
        if not archive.exists():
            pytest.skip(f"needs {archive}")
        with tarfile.open(archive) as labels:
            members = [m for m in labels.getmembers() if "label_2/" in m.name and m.isfile()]
            lines = [
                line.split() for m in members for line in labels.extractfile(m).read().splitlines()
            ]
        for name in st.CLASSES:
            real = np.array([line[8:15] for line in lines if line[0] == name.encode()], dtype=float)
            made = [i for layout in layouts for i in layout.objects if i.kind == name]
            assert len(made) / len(layouts) == pytest.approx(len(real) / len(members), rel=0.35)
            for levels in (0.25, 0.5, 0.75):
                depth = np.quantile([i.location[2] for i in made], levels)
                assert depth == pytest.approx(np.quantile(real[:, 5], levels), rel=0.3), name
            sizes = np.mean([i.dimensions for i in made], axis=0)
            np.testing.assert_allclose(sizes, real[:, :3].mean(axis=0), rtol=0.12)
