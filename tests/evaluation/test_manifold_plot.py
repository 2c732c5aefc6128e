import cv2
import numpy as np
import pytest

from qiml.errors import ConfigError
from qiml.evaluation.manifold_plot import plot_manifold


@pytest.mark.parametrize("count", [0, 1, 2, 200])
@pytest.mark.parametrize("space", ["metric", "log"])
def test_picture(tmp_path, count, space):
    rng = np.random.default_rng(0)
    path = tmp_path / "new" / "manifold.png"
    plot_manifold(rng.normal(size=(count, 8)), rng.uniform(2, 60, count), path, depth_space=space)
    assert cv2.imread(str(path)).shape == (504, 1152, 3)
    assert [file.name for file in path.parent.iterdir()] == ["manifold.png"]


def test_unknown_extension(tmp_path):
    with pytest.raises(ConfigError, match="xyz"):
        plot_manifold(np.zeros((2, 2)), np.array([1.0, 2]), tmp_path / "manifold.xyz")
