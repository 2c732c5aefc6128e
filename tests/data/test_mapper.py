import copy
import math

import cv2
import numpy as np
import pytest
import torch

from qiml.data.augmentation import evaluation_warp
from qiml.data.catalog import register_datasets
from qiml.data.depth_map import write_depth_map
from qiml.data.kitti import KITTI_CLASSES, load_kitti_format
from qiml.data.kitti_format import KITTIObjects
from qiml.data.mapper import MonocularMapper
from qiml.errors import ConfigError, DatasetError
from qiml.structures.boxes3d import wrap_angle
from qiml.structures.camera import Camera

SIZE = (320, 96)
INPUT = (192, 64)
NO_AUGMENTATION = {"flip": 0.0, "crop": 0.0, "crop_scale": 0.4, "crop_shift": 0.1}
# Just inside each border of the filter below.
ANNOTATION = {
    "bbox": [10, 20, 40, 44],
    "category_id": 1,
    "box3d": [0, 1, 65, 1.5, 1.6, 3.9, 0],
    "alpha": 0.0,
    "truncation": 0.5,
    "occlusion": 2,
    "ignore": False,
}


def make_mapper(evaluation=False, **changes):
    augmentation = {key: changes.pop(key, value) for key, value in NO_AUGMENTATION.items()}
    arguments = {
        "input_size": INPUT,
        "augmentation": None if evaluation else augmentation,
        "photometric": 0.0,
        "crop_depth": "ignore",
        "min_height": 25,
        "max_truncation": 0.5,
        "max_occlusion": 2,
        "min_depth": 2,
        "max_depth": 65,
        "category_ids": frozenset({0, 1, 2}),
    }
    return MonocularMapper(**{**arguments, **changes})


@pytest.fixture
def frame(kitti_folder):
    """A street with a car, a pedestrian and a cyclist."""
    return load_kitti_format(kitti_folder(frames=1, size=SIZE), "train")[0]


def sample(frame, seed=0, **changes):
    return make_mapper(**changes)(frame, np.random.default_rng(seed))


AUGMENTATIONS = [
    pytest.param({"flip": 0, "crop": 0}, id="none"),
    pytest.param({"flip": 1, "crop": 0}, id="flip"),
    pytest.param({"flip": 0, "crop": 1}, id="crop"),
    pytest.param({"flip": 1, "crop": 1}, id="flip and crop"),
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("crop_depth", ["ignore", "virtual"])
def test_camera_sees_the_boxes_where_the_targets_are(frame, augmentation, crop_depth):
    for seed in range(4):
        result = sample(frame, seed, crop_depth=crop_depth, **augmentation)
        objects, camera = result["instances"], Camera(result["camera"])
        assert len(objects) == 3
        assert objects.image_size == (INPUT[1], INPUT[0])
        centres, _ = camera.project(objects.gt_boxes3d.centres)
        torch.testing.assert_close(centres, objects.gt_projected_centres, rtol=0, atol=2e-3)
        # The labels' 2D boxes are the projections of their 3D boxes (to label's four decimals).
        boxes = objects.gt_boxes3d.project(camera)
        torch.testing.assert_close(boxes, objects.gt_boxes.tensor, rtol=0, atol=5e-3)
        error = wrap_angle(objects.gt_alpha - objects.gt_boxes3d.alpha)
        assert error.abs().max() < 2e-3


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_pixels_are_where_the_targets_are(frame, augmentation):
    """A spot painted over each object's projected centre is found at its target."""
    for number, annotation in enumerate(frame["annotations"]):
        camera = Camera(torch.tensor(frame["camera"]))
        (centre,), _ = camera.project(torch.tensor([annotation["box3d"][:3]]))
        x, y = np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1])[:, None] + 0.5
        spot = np.exp(-((x - centre[0].item()) ** 2 + (y - centre[1].item()) ** 2) / 32)
        image = np.repeat(np.rint(255 * spot)[..., None], 3, axis=2).astype(np.uint8)
        assert cv2.imwrite(frame["file_name"], image)
        # Small shifts, so that the whole spot stays inside.
        result = sample(frame, number, crop_shift=0.03, crop_scale=0.2, **augmentation)
        weight = result["image"][0].double()
        v, u = torch.meshgrid(*(torch.arange(n) + 0.5 for n in weight.shape), indexing="ij")
        found = torch.stack([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
        expected = result["instances"].gt_projected_centres[number].double()
        torch.testing.assert_close(found, expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("resize", ["fit", "pad"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_dense_depth_is_where_the_pixels_are(frame, tmp_path, augmentation, resize):
    """Each pixel of the map holds the depth of its place in the original; beyond that, nothing is known."""
    depth = 20 + np.add.outer(np.arange(SIZE[1]) / 8, np.arange(SIZE[0]) / 16)
    path = tmp_path / "depth.png"
    write_depth_map(path, depth)
    dense = {"dense_depth": True, "input_size": (320, 128) if resize == "pad" else INPUT}
    result = sample({**frame, "depth_file_name": str(path)}, resize=resize, **dense, **augmentation)
    found = result["dense_depth"].numpy()
    assert found.shape == result["image"].shape[1:] and found.dtype == np.float32
    v, u = np.indices(found.shape) + 0.5
    (zoom, _, dx), (_, _, dy) = result["affine"].numpy()
    x, y = (u - dx) / zoom, (v - dy) / zoom
    if augmentation["flip"]:
        x = SIZE[0] - x
    inside = (abs(x - SIZE[0] / 2) < SIZE[0] / 2 - 3) & (abs(y - SIZE[1] / 2) < SIZE[1] / 2 - 3)
    outside = (abs(x - SIZE[0] / 2) > SIZE[0] / 2 + 3) | (abs(y - SIZE[1] / 2) > SIZE[1] / 2 + 3)
    assert inside.mean() > 0.3
    expected = 20 + (y - 0.5) / 8 + (x - 0.5) / 16
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.03)
    assert not found[outside].any()


def test_dense_depth_only_where_asked_for(frame, tmp_path):
    assert "dense_depth" not in sample({**frame, "depth_file_name": "nowhere.png"})
    mapper = make_mapper(dense_depth=True)
    with pytest.raises(DatasetError, match=r"without a dense depth map.*VISUAL_DEPTH"):
        mapper.check(frame)
    mapper.check({**frame, "depth_file_name": "somewhere.png"})


def test_flip_mirrors_2d_boxes_and_headings(frame):
    plain = sample(frame)["instances"]
    flipped = sample(frame, flip=1)["instances"]
    mirrored = plain.gt_boxes.tensor[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
    mirrored += torch.tensor([INPUT[0], 0, INPUT[0], 0])
    torch.testing.assert_close(flipped.gt_boxes.tensor, mirrored)
    torch.testing.assert_close(flipped.gt_alpha, wrap_angle(math.pi - plain.gt_alpha))
    assert torch.equal(flipped.gt_depth, plain.gt_depth)
    assert torch.equal(flipped.gt_classes, plain.gt_classes)


def test_targets_without_augmentation_are_the_labels(frame):
    objects = sample(frame)["instances"]
    labels = frame["annotations"]
    assert objects.gt_classes.tolist() == [label["category_id"] for label in labels]
    box3d = torch.tensor([label["box3d"] for label in labels])
    torch.testing.assert_close(objects.gt_boxes3d.tensor, box3d)
    torch.testing.assert_close(objects.gt_depth, box3d[:, 2])
    torch.testing.assert_close(objects.gt_alpha, torch.tensor([a["alpha"] for a in labels]))
    zoom = INPUT[0] / SIZE[0]
    offset = torch.tensor([0, INPUT[1] - zoom * SIZE[1]]).repeat(2) / 2
    bbox = torch.tensor([label["bbox"] for label in labels])
    torch.testing.assert_close(objects.gt_boxes.tensor, zoom * bbox + offset)
    assert objects.gt_has_3d.all()


def test_ignored_crops_teach_no_depth(frame):
    objects = sample(frame, crop=1, crop_depth="ignore")["instances"]
    assert not objects.gt_has_3d.any()


@pytest.mark.parametrize("flip", [0, 1])
def test_virtual_depth_is_what_the_uncropped_camera_would_see(frame, flip):
    """An object that a crop magnifies twice teaches half its depth."""
    uncropped = Camera(sample(frame, flip=flip)["camera"])
    for seed in range(4):
        result = sample(frame, seed, flip=flip, crop=1, crop_depth="virtual")
        objects, camera = result["instances"], Camera(result["camera"])
        assert objects.gt_has_3d.all()
        magnification = camera.fx / uncropped.fx
        assert not math.isclose(magnification, 1, abs_tol=0.01)
        torch.testing.assert_close(
            objects.gt_depth * magnification, objects.gt_boxes3d.depth, rtol=1e-5, atol=0
        )
        # As many pixels per metre as the object shows in the cropped image.
        torch.testing.assert_close(
            uncropped.fy / objects.gt_depth, camera.fy / objects.gt_boxes3d.depth
        )


def test_metric_depth_stays_and_says_what_the_crop_shows(frame):
    """With what undoes the crop: the input's camera and affine, once an object."""
    result = sample(frame, crop=1, crop_depth="metric")
    objects, virtual = result["instances"], sample(frame, crop=1, crop_depth="virtual")["instances"]
    assert objects.gt_has_3d.all()
    assert torch.equal(objects.gt_depth, objects.gt_boxes3d.depth)
    assert torch.equal(objects.gt_apparent_depth, virtual.gt_depth)
    assert torch.equal(objects.gt_apparent_depth, virtual.gt_apparent_depth)
    assert torch.equal(objects.gt_cameras, result["camera"].expand(3, 3, 4))
    assert torch.equal(objects.gt_affines, result["affine"].expand(3, 2, 3))
    whole = sample(frame, crop_depth="metric")["instances"]
    assert torch.equal(whole.gt_apparent_depth, whole.gt_depth)


def test_a_batch_may_mix_cropped_and_whole_images(frame):
    has_3d = [sample(frame, seed, crop=0.5)["instances"].gt_has_3d for seed in range(20)]
    assert {flags.all().item() for flags in has_3d} == {True, False}
    assert all(flags.all() or not flags.any() for flags in has_3d)


@pytest.mark.parametrize(
    ("change", "trains"),
    [
        ({}, True),
        ({"bbox": [10, 20, 40, 43.99]}, False),  # 24.99 px as the official code counts them
        ({"bbox": [10, 20, 10, 44]}, False),  # no width
        ({"truncation": 0.51}, False),
        ({"occlusion": 3}, False),
        ({"box3d": [0, 1, 2, 1.5, 1.6, 3.9, 0]}, True),
        ({"box3d": [0, 1, 1.99, 1.5, 1.6, 3.9, 0]}, False),
        ({"box3d": [0, 1, 65.01, 1.5, 1.6, 3.9, 0]}, False),
        ({"category_id": 0}, False),
        ({"ignore": True}, False),
    ],
)
def test_which_objects_train(change, trains):
    mapper = make_mapper(category_ids=frozenset({1}))
    assert mapper.trains({**ANNOTATION, **change}) == trains


@pytest.mark.parametrize(
    ("classes", "expected"),
    [("()", {0, 1, 2}), ("('Car',)", {1}), ("('Pedestrian', 'Cyclist')", {0, 2})],
)
def test_classes_that_train(kitti_folder, tiny_config, classes, expected):
    name = f"kitti_format:{kitti_folder()}:train"
    register_datasets([name])
    cfg = tiny_config("DATASETS.TRAIN", f"('{name}',)", "INPUT.FILTER.CLASSES", classes)
    assert MonocularMapper(cfg, is_train=True).category_ids == expected
    assert KITTI_CLASSES[1] == "Car"


def test_unknown_class_name(kitti_folder, tiny_config):
    name = f"kitti_format:{kitti_folder()}:train"
    register_datasets([name])
    cfg = tiny_config("DATASETS.TRAIN", f"('{name}',)", "INPUT.FILTER.CLASSES", "('Lorry',)")
    with pytest.raises(ConfigError, match=r"INPUT\.FILTER\.CLASSES: found 'Lorry'"):
        MonocularMapper(cfg, is_train=True)


def test_filter_values_come_from_the_config(kitti_folder, tiny_config):
    name = f"kitti_format:{kitti_folder()}:train"
    register_datasets([name])
    overrides = ["MIN_HEIGHT", 31.0, "MAX_TRUNCATION", 0.3, "MAX_OCCLUSION", 1]
    overrides += ["MIN_DEPTH", 4.0, "MAX_DEPTH", 50.0]
    overrides[::2] = [f"INPUT.FILTER.{key}" for key in overrides[::2]]
    mapper = MonocularMapper(tiny_config("DATASETS.TRAIN", f"('{name}',)", *overrides))
    inside = {
        **ANNOTATION,
        "bbox": [10, 20, 40, 50],
        "truncation": 0.3,
        "occlusion": 1,
        "box3d": [0, 1, 50, 1.5, 1.6, 3.9, 0],
    }
    assert mapper.trains(inside)
    for change in (
        {"bbox": [10, 20, 40, 49]},
        {"truncation": 0.31},
        {"occlusion": 2},
        {"box3d": [0, 1, 3.9, 1.5, 1.6, 3.9, 0]},
        {"box3d": [0, 1, 50.1, 1.5, 1.6, 3.9, 0]},
    ):
        assert not mapper.trains({**inside, **change})


def test_evaluation_needs_no_training_data(kitti_folder, tiny_config):
    """Neither its labels nor that it is registered."""
    cfg = tiny_config("DATASETS.TRAIN", "('kitti_format:/nowhere:train',)")
    frame = load_kitti_format(kitti_folder(split="test"), "test")[0]
    result = MonocularMapper(cfg, is_train=False)(frame)
    assert "instances" not in result


def test_evaluation_input(frame):
    result = make_mapper(evaluation=True, photometric=1.0)(frame, np.random.default_rng(0))
    again = make_mapper(evaluation=True)(frame)
    assert "instances" not in again and "annotations" not in again
    affine = torch.tensor(evaluation_warp(SIZE, INPUT).affine)
    torch.testing.assert_close(again["affine"], affine.float())
    expected = Camera(torch.tensor(frame["camera"], dtype=torch.float64)).warp(affine)
    torch.testing.assert_close(again["camera"], expected.projection.float())
    assert (again["width"], again["height"], again["image_id"]) == (*SIZE, "000000")
    assert again["image"].shape == (3, INPUT[1], INPUT[0]) and again["image"].dtype == torch.uint8
    assert result.keys() == again.keys()


def test_colours_are_rgb(frame):
    cv2.imwrite(frame["file_name"], np.full((SIZE[1], SIZE[0], 3), (10, 20, 30), dtype=np.uint8))
    middle = make_mapper(evaluation=True)(frame)["image"][:, INPUT[1] // 2, INPUT[0] // 2]
    assert middle.tolist() == [30, 20, 10]  # OpenCV writes BGR


def test_same_generator_same_sample_and_frame_unchanged(frame):
    before = copy.deepcopy(frame)
    changes = {"flip": 0.5, "crop": 0.5, "photometric": 0.5}
    for seed in range(6):
        first, again = (sample(frame, seed, **changes) for _ in range(2))
        assert torch.equal(first["image"], again["image"])
        assert torch.equal(first["camera"], again["camera"])
        boxes = [s["instances"].gt_boxes3d.tensor for s in (first, again)]
        assert torch.equal(*boxes)
    assert frame == before


def test_photometric_jitter_changes_pixels_alone(frame):
    plain, jittered = sample(frame), sample(frame, photometric=1.0)
    assert not torch.equal(plain["image"], jittered["image"])
    assert torch.equal(plain["camera"], jittered["camera"])
    boxes = [s["instances"].gt_boxes.tensor for s in (plain, jittered)]
    assert torch.equal(*boxes)


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_frames_without_objects_and_without_labels(kitti_folder, split, flip):
    root = kitti_folder(split=split, objects=KITTIObjects.empty())
    for frame in load_kitti_format(root, split):
        assert ("annotations" in frame) == (split == "train")
        objects = sample(frame, flip=flip, crop=1)["instances"]
        assert len(objects) == 0
        assert objects.gt_boxes.tensor.shape == (0, 4)
        assert objects.gt_boxes3d.tensor.shape == (0, 7)
        assert objects.gt_projected_centres.shape == (0, 2)


def test_image_whose_body_is_torn(frame):
    with open(frame["file_name"], "rb+") as file:
        file.truncate(2000)
    with pytest.raises(DatasetError, match=r"000000\.png: found an image that does not decode"):
        sample(frame)


def test_image_that_vanished_or_changed(frame, tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.png: found no such file"):
        sample({**frame, "file_name": str(tmp_path / "gone.png")})
    cv2.imwrite(frame["file_name"], np.zeros((50, 60, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"found 60×50 pixels; expected 320×96"):
        sample(frame)


def test_rotation_tags_of_photographs_are_not_followed(frame, tmp_path):
    """A calibration is of the pixels as stored."""
    from PIL import Image

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90°
    Image.new("RGB", SIZE, (200, 100, 50)).save(path, exif=exif)
    image = sample({**frame, "file_name": str(path)})["image"]
    assert image.shape == (3, INPUT[1], INPUT[0])


def test_padded_input_keeps_pixels_camera_and_boxes(frame):
    """The image stands in the upper left corner; the rest has the mean colour."""
    size = (SIZE[0] + 40, SIZE[1] + 24)
    result = sample(frame, input_size=size, resize="pad", pad_colour=(1, 2, 3))
    image = cv2.imread(frame["file_name"])[..., ::-1]
    pixels = result["image"].permute(1, 2, 0).numpy()
    assert pixels.shape == (size[1], size[0], 3)
    np.testing.assert_array_equal(pixels[: SIZE[1], : SIZE[0]], image)
    assert (pixels[SIZE[1] :] == (1, 2, 3)).all() and (pixels[:, SIZE[0] :] == (1, 2, 3)).all()
    assert torch.equal(result["affine"], torch.eye(2, 3))
    torch.testing.assert_close(result["camera"], torch.tensor(frame["camera"]))
    boxes = torch.tensor([a["bbox"] for a in frame["annotations"]])
    torch.testing.assert_close(result["instances"].gt_boxes.tensor, boxes)
    assert result["instances"].image_size == (size[1], size[0])


@pytest.mark.parametrize("flip", [0, 1])
def test_padded_input_mirrors_the_image_alone(frame, flip):
    size = (SIZE[0] + 40, SIZE[1] + 24)
    result = sample(frame, flip=flip, input_size=size, resize="pad")
    objects, camera = result["instances"], Camera(result["camera"])
    boxes = objects.gt_boxes3d.project(camera)
    torch.testing.assert_close(boxes, objects.gt_boxes.tensor, rtol=0, atol=5e-3)
    assert boxes[:, 2].max() <= SIZE[0]


def test_images_of_several_sizes_share_a_padded_input(kitti_folder):
    frames = [
        load_kitti_format(kitti_folder(frames=1, size=size), "train")[0]
        for size in ((320, 96), (300, 90))
    ]
    mapper = make_mapper(evaluation=True, input_size=(320, 96), resize="pad")
    assert {mapper(frame)["image"].shape for frame in frames} == {(3, 96, 320)}


def test_image_larger_than_the_padded_input(frame):
    mapper = make_mapper(evaluation=True, input_size=(SIZE[0] - 1, 512), resize="pad")
    with pytest.raises(DatasetError, match=r"000000\.png: found .* expected at most INPUT\.SIZE"):
        mapper(frame)


def shifted_sample(frame, seed):
    augmentation = {**NO_AUGMENTATION, "shift": 1.0, "shift_pixels": 30}
    mapper = make_mapper(augmentation=augmentation, input_size=SIZE, resize="pad")
    return mapper(frame, np.random.default_rng(seed))


def test_a_shift_moves_camera_and_boxes_and_clips_these(frame):
    moved = set()
    for seed in range(8):
        result = shifted_sample(frame, seed)
        objects, camera = result["instances"], Camera(result["camera"])
        centres, _ = camera.project(objects.gt_boxes3d.centres)
        torch.testing.assert_close(centres, objects.gt_projected_centres, rtol=0, atol=2e-3)
        hull = objects.gt_boxes3d.project(camera, (SIZE[1], SIZE[0]))
        torch.testing.assert_close(hull, objects.gt_boxes.tensor, rtol=0, atol=5e-3)
        assert torch.equal(objects.gt_cameras, result["camera"].expand(len(objects), 3, 4))
        moved.add(tuple(result["affine"][:, 2].tolist()))
    assert len(moved) == 8


def test_objects_that_a_shift_pushes_out_are_gone(frame):
    edge = copy.deepcopy(frame)
    edge["annotations"][0]["bbox"] = [0, 40, 12, 90]
    counts = {}
    for seed in range(20):
        result = shifted_sample(edge, seed)
        boxes = result["instances"].gt_boxes.tensor
        assert ((boxes[:, 2:] - boxes[:, :2]) > 1).all()
        assert (boxes >= 0).all() and (boxes <= torch.tensor([*SIZE, *SIZE])).all()
        counts.setdefault(result["affine"][0, 2].item() < -11, set()).add(len(boxes))
    assert 2 in counts[True] and counts[False] == {3}
