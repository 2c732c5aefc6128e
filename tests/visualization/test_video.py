import cv2
import numpy as np
import pytest

from qiml.errors import ConfigError
from qiml.visualization.video import video_writer


def frame(height=48, width=64, red=200) -> np.ndarray:
    return np.full((height, width, 3), (red, 40, 90), dtype=np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_what_is_written_can_be_read_back(tmp_path, size):
    path = tmp_path / "videos" / "out.mp4"
    with video_writer(path, fps=7) as append:
        for _ in range(4):
            append(frame(*size))
            assert not path.exists(), "unfinished videos have another name"
    assert [file.name for file in path.parent.iterdir()] == ["out.mp4"]
    capture = cv2.VideoCapture(str(path))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (4, 7)
    image = capture.read()[1]
    assert image.shape == (48 if size[0] == 48 else 46, 64 if size[1] == 64 else 62, 3)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), (90, 40, 200), atol=6)


def test_nothing_stays_of_a_video_that_fails(tmp_path):
    with pytest.raises(RuntimeError), video_writer(tmp_path / "out.mp4", fps=10) as append:
        append(frame())
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_an_earlier_video_stays_when_the_next_one_fails(tmp_path):
    (tmp_path / "out.mp4").write_text("earlier")
    with pytest.raises(ConfigError, match="0 readable frames after writing 0"):
        with video_writer(tmp_path / "out.mp4", fps=10):
            pass
    assert [file.read_text() for file in tmp_path.iterdir()] == ["earlier"]


def test_frames_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="shape"), video_writer(tmp_path / "out.mp4", 10) as append:
        append(frame())
        append(frame(height=50))
    assert not list(tmp_path.iterdir())


def test_formats_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"out\.nothing"):
        with video_writer(tmp_path / "out.nothing", fps=10) as append:
            append(frame())
    assert not list(tmp_path.iterdir())
