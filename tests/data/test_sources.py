import os
import signal

import cv2
import numpy as np
import pytest

from qiml.data.sources import Images, Video, Webcam, open_sources
from qiml.errors import DatasetError
from qiml.visualization.video import video_writer

SIZE = (48, 64)


def picture(grey: int) -> np.ndarray:
    return np.full((*SIZE, 3), (grey, 80, 160), dtype=np.uint8)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "frames" / "b.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), picture(200)[..., ::-1])
    return path


@pytest.fixture
def video(tmp_path):
    with video_writer(tmp_path / "drive.mp4", fps=12) as append:
        for grey in (20, 120, 220):
            append(picture(grey))
    return tmp_path / "drive.mp4"


def test_a_folder_gives_its_images_by_name(image):
    for name in ("c.jpg", "a.PNG", ".tmp-x.png"):
        cv2.imwrite(str(image.with_name(name.lower())), picture(0))
    (image.with_name("notes.txt")).write_text("no image")
    (source,) = open_sources([image.parent])
    assert isinstance(source, Images) and source.name is None
    frames = list(source)
    assert [frame.id for frame in frames] == ["a", "b", "c"] and len(source) == 3
    np.testing.assert_array_equal(frames[1].image, picture(200))
    assert frames[1].source == str(image)


def test_a_video_gives_numbered_frames_in_rgb(video):
    (source,) = open_sources([video])
    assert isinstance(source, Video)
    assert (source.name, source.fps, len(source)) == ("drive", 12, 3)
    for _ in range(2):  # can be read again
        frames = list(source)
        assert [frame.id for frame in frames] == [f"drive_{i:06d}" for i in range(3)]
        means = [frame.image.mean(axis=(0, 1)) for frame in frames]
        np.testing.assert_allclose(means[2], (220, 80, 160), atol=6)


def test_images_come_before_videos(image, video):
    assert [type(s) for s in open_sources([video, image])] == [Images, Video]


def test_a_video_whose_end_is_missing_warns(video, caplog):
    source = Video(video)
    source._length = 5
    assert len(list(source)) == 3
    assert "5 frames, 3 decode" in caplog.text


class _Camera:
    """Stands for cv2.VideoCapture of a device that gives `pictures` and then nothing."""

    pictures = 5
    interrupt_at = None

    def __init__(self, number):
        self.count, self.released = 0, False

    def isOpened(self):
        return self.pictures is not None

    def get(self, _):
        return 30.0

    def read(self):
        if self.count == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        self.count += 1
        return (True, picture(0)) if self.count <= self.pictures else (False, None)

    def release(self):
        self.released = True


def webcam(monkeypatch, **attributes) -> Webcam:
    monkeypatch.setattr("cv2.VideoCapture", type("Camera", (_Camera,), attributes))
    (source,) = open_sources([], webcam=0)
    return source


def test_ctrl_c_ends_a_webcam_after_the_frame_it_is_at(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    source = webcam(monkeypatch, interrupt_at=2)
    assert [frame.id for frame in source] == [f"webcam0_{i:06d}" for i in range(3)]
    assert signal.getsignal(signal.SIGINT) == before and source._capture.released


@pytest.mark.parametrize("pictures", [None, 0])
def test_a_webcam_without_pictures(monkeypatch, pictures):
    with pytest.raises(DatasetError, match="webcam 0"):
        list(webcam(monkeypatch, pictures=pictures))


def _torn_video(folder):
    (folder / "torn.mp4").write_bytes(b"\0" * 500)
    return [folder / "torn.mp4"]


def _torn_image(folder):
    (folder / "torn.png").write_bytes(b"\x89PNG")
    return [folder / "torn.png"]


def _other_kind(folder):
    (folder / "notes.txt").write_text("")
    return [folder / "notes.txt"]


def _same_names(folder):
    for name in ("x.png", "x.jpg"):
        cv2.imwrite(str(folder / name), picture(0))
    return [folder / "x.png", folder / "x.jpg"]


@pytest.mark.parametrize(
    "inputs, found",
    [
        (lambda folder: [], "no input"),
        (lambda folder: [folder / "none.png"], "no such file"),
        (lambda folder: [folder], "a folder without images"),
        (_other_kind, "another kind"),
        (_torn_video, "does not open as a video"),
        (_torn_image, "does not decode"),
        (_same_names, "'x' again"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, inputs, found):
    paths = inputs(tmp_path)
    with pytest.raises(DatasetError, match=found) as error:
        for source in open_sources(paths):
            list(source)
    assert "To mend it" in str(error.value)
    assert all(str(path) in str(error.value) for path in paths)
