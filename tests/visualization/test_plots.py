import numpy as np

from qiml.data.kitti_format import write_objects
from qiml.evaluation.kitti import evaluate_files
from qiml.visualization.plots import draw_depth_errors, draw_precision_recall
from tests.evaluation.test_kitti import road


def ink(picture: np.ndarray) -> int:
    return (picture != 255).any(axis=-1).sum()


def test_depth_errors_are_drawn_for_every_name():
    rng = np.random.default_rng(0)
    depth = rng.uniform(5, 60, 200)
    one = draw_depth_errors({"Car": (depth, 0.05 * depth)})
    two = draw_depth_errors({"Car": (depth, 0.05 * depth), "Cyclist": (depth, -0.1 * depth)})
    assert one.shape == two.shape and one.dtype == np.uint8 and one.shape[2] == 3
    assert ink(two) > ink(one) > ink(draw_depth_errors({}))


def test_bins_with_few_objects_have_no_median():
    def picture(far_objects: int) -> np.ndarray:
        depth = np.array([5.0, 6, 7] + [45.0] * far_objects)
        return draw_depth_errors({"Car": (depth, np.ones(len(depth)))})

    assert ink(picture(3)) > ink(picture(1)) + 30, "the marker of a second median"


def test_precision_recall_curves_become_an_image(tmp_path):
    for folder, score in (("labels", None), ("results", 0.9)):
        write_objects(tmp_path / folder / "0.txt", road("Car", scores=score))
    report = evaluate_files(tmp_path / "labels", tmp_path / "results", classes=["Car"])
    picture = draw_precision_recall(report.evaluation)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert 500 < ink(picture) < picture[..., 0].size / 2
