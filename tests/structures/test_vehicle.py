import numpy as np
import pytest

from qiml.structures.vehicle import boxes_to_camera, boxes_to_vehicle, camera_to_vehicle

LEVEL = [1, 0, 0, 1.5, 0, 1, 0, 0, 0, 0, 1, 2.0, 0, 0, 0, 1]


def turned(yaw, pitch=0.0):
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    cosine, sine = np.cos(pitch), np.sin(pitch)
    pose = np.eye(4)
    pose[:3, :3] = turn @ [[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]
    pose[:3, 3] = 1.5, 0.2, 2.0
    return camera_to_vehicle(pose)


def test_known_box():
    # 20 m ahead of the camera, 3 m to its left, standing on the ground, driving away.
    box = boxes_to_camera([[21.5, 3, 0.8, 4, 2, 1.6, 0.0]], camera_to_vehicle(LEVEL))
    np.testing.assert_allclose(box, [[-3, 1.2, 20, 1.6, 2, 4, -np.pi / 2]], atol=1e-12)
    # Turned to the left it looks along −x.
    box = boxes_to_camera([[21.5, 3, 0.8, 4, 2, 1.6, np.pi / 2]], camera_to_vehicle(LEVEL))
    assert box[0, 6] == pytest.approx(-np.pi)


@pytest.mark.parametrize("yaw", [0, 0.78, -1.57, 3.0])
@pytest.mark.parametrize(("pitch", "tolerance"), [(0, 1e-12), (0.01, 1e-4)])
def test_there_and_back(yaw, pitch, tolerance):
    rng = np.random.default_rng(0)
    centres, sizes = rng.normal(0, 30, (50, 3)), rng.uniform(1, 5, (50, 3))
    boxes = np.column_stack([centres, sizes, rng.uniform(-3.1, 3.1, 50)])
    pose = turned(yaw, pitch)
    np.testing.assert_allclose(
        boxes_to_vehicle(boxes_to_camera(boxes, pose), pose), boxes, atol=tolerance
    )


def test_no_boxes():
    assert boxes_to_camera(np.empty((0, 7)), turned(0)).shape == (0, 7)
