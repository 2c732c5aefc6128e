import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from qiml.data.kitti import load_kitti_format
from qiml.structures.boxes3d import Boxes3D
from qiml.visualization.frame import frame_panel

NAMES = ("Pedestrian", "Car", "Cyclist")


@pytest.fixture
def frame(kitti_folder):
    return load_kitti_format(kitti_folder(), "train")[0]


def found(boxes):
    return Instances(
        (96, 320),
        pred_boxes3d=Boxes3D(torch.tensor(boxes).reshape(-1, 7)),
        pred_classes=torch.ones(len(boxes), dtype=torch.long),
        scores=torch.full((len(boxes),), 0.5),
    )


def test_detections_and_labels_are_drawn(frame):
    box = frame["annotations"][0]["box3d"]
    nothing = frame_panel({**frame, "annotations": []}, found([]), NAMES)
    labels = frame_panel(frame, found([]), NAMES)
    both = frame_panel(frame, found([box]), NAMES)
    assert not np.array_equal(nothing, labels) and not np.array_equal(labels, both)


def test_frame_of_a_split_without_labels(frame):
    del frame["annotations"]
    assert frame_panel(frame, found([]), NAMES).ndim == 3
