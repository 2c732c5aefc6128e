import numpy as np

from qiml.data.images import read_image_size
from qiml.data.kitti_folder import KITTISplit
from qiml.data.kitti_format import KITTIObjects, read_calibration, read_objects
from qiml.evaluation.projection_check import projection_overlaps

PROJECTION = np.array([[100.0, 0, 50, 0], [0, 100, 30, 0], [0, 0, 1, 0]])
FACING = [0.0, 0, 10.5, 2, 1, 1, 0]  # its near face, at 10 m, is seen 10 px wide and 20 px high


def overlap(bbox, box3d=FACING) -> float:
    objects = KITTIObjects.from_boxes(["Car"], np.array([box3d]), bbox=np.array([bbox]))
    return projection_overlaps(objects, PROJECTION, (60, 100)).item()


def test_the_rectangle_around_the_projected_box_is_compared():
    np.testing.assert_allclose(overlap([45, 20, 55, 40]), 1)
    np.testing.assert_allclose(overlap([50, 20, 60, 40]), 1 / 3)
    assert overlap([60, 20, 70, 40]) == 0


def test_what_is_outside_the_image_does_not_count():
    left = [-5.0, *FACING[1:]]  # its near face begins at −5 px, its far face ends at 50 − 450 / 11
    np.testing.assert_allclose(overlap([0, 20, 50 - 450 / 11, 40], left), 1)


def test_boxes_behind_the_camera_overlap_nothing():
    assert overlap([45, 20, 55, 40], [0.0, 0, -10, 2, 1, 1, 0]) == 0
    assert projection_overlaps(KITTIObjects.empty(), PROJECTION, (60, 100)).shape == (0,)


def test_real_labels_of_untruncated_cars_agree(real_data):
    frames = KITTISplit(real_data / "kitti", "trainval")
    overlaps = []
    for image_id in frames.image_ids:
        objects = read_objects(frames.label_file(image_id), scored=False)
        cars = objects[(objects.types == "Car") & (objects.truncation == 0)]
        width, height = read_image_size(frames.image_file(image_id))
        projection = read_calibration(frames.calibration_file(image_id))
        overlaps.append(projection_overlaps(cars, projection, (height, width)))
    overlaps = np.concatenate(overlaps)
    assert len(overlaps) > 200
    assert overlaps.min() >= 0.95 and overlaps.mean() >= 0.97
