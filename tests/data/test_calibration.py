import json
import math

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from qiml.data.calibration import CalibrationReader, exif_focal, read_matrix
from qiml.data.kitti_format import write_calibration
from qiml.data.sources import Frame
from qiml.errors import ConfigError, DatasetError

MATRIX = np.array([[700.0, 0, 610, 45], [0, 705, 172, 0.2], [0, 0, 1, 0.003]])
SQUARE = np.hstack([MATRIX[:, :3], np.zeros((3, 1))])
WAYS = ("KITTI calibration file", ".json or .yaml", "--focal", "EXIF")


def frame(frame_id="000007", source="somewhere/000007.png", width=1200, height=400) -> Frame:
    return Frame(frame_id, str(source), np.zeros((height, width, 3), dtype=np.uint8))


def test_a_kitti_file_serves_all_frames_and_a_folder_each_its_own(tmp_path):
    write_calibration(tmp_path / "000007.txt", MATRIX)
    twice_as_large = np.diag([2, 2, 1]) @ MATRIX
    write_calibration(tmp_path / "drive.txt", twice_as_large)
    np.testing.assert_allclose(CalibrationReader(tmp_path / "drive.txt")(frame()), twice_as_large)
    folder = CalibrationReader(tmp_path)
    np.testing.assert_allclose(folder(frame()), MATRIX)
    of_video = frame("drive_000003", "videos/drive.mp4")
    np.testing.assert_allclose(folder(of_video), twice_as_large)
    with pytest.raises(DatasetError, match="calibration of frame 000008") as error:
        folder(frame("000008", "000008.png"))
    assert all(way in str(error.value) for way in WAYS)


def test_a_focal_length_puts_the_principal_point_into_the_middle():
    projection = CalibrationReader(focal=900)(frame())
    np.testing.assert_array_equal(projection, [[900, 0, 600, 0], [0, 900, 200, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize(
    "content, expected",
    [
        (MATRIX.tolist(), MATRIX),
        (MATRIX[:, :3].tolist(), SQUARE),
        (MATRIX.ravel().tolist(), MATRIX),
        ({"K": MATRIX[:, :3].tolist(), "distortion": [0.1]}, SQUARE),
        ({"projection": MATRIX.tolist()}, MATRIX),
        ({"camera_matrix": {"rows": 3, "cols": 3, "data": SQUARE[:, :3].ravel().tolist()}}, SQUARE),
    ],
)
@pytest.mark.parametrize("write, name", [(json.dumps, "m.json"), (yaml.safe_dump, "m.yaml")])
def test_matrices(tmp_path, content, expected, write, name):
    path = tmp_path / name
    path.write_text(write(content))
    np.testing.assert_array_equal(CalibrationReader(path)(frame()), expected)


@pytest.mark.parametrize(
    "text, found",
    [
        ("[[1, 2], [3, 4]]", "shape 2×2"),
        ("[[700, 0, 600], [0, 700]]", "different lengths"),
        ("[[700, 0, 600], [0, -700, 180], [0, 0, 1]]", "focal lengths 700 and -700"),
        ("[[700, 0, 600], [0, .inf, 180], [0, 0, 1]]", "not finite"),
        ("[[700, 0, 600], [0, 700, 180], [0, 0, 2]]", "last row"),
        ("[[a, 0, 600], [0, 700, 180], [0, 0, 1]]", "not of numbers"),
        ("fx: 700", "the keys fx"),
        ("[[1, 2}", "expected"),
        ("", "shape"),
        ("700", "shape"),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path, text, found):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=found) as error:
        read_matrix(path)
    assert str(path) in str(error.value) and "3×3 or 3×4" in str(error.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"focal": 0}, "--focal: found 0"),
        ({"focal": -5}, "found -5"),
        ({"focal": math.nan}, "found nan"),
        ({"focal": 700, "calib": "calib.txt"}, "one way"),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CalibrationReader(**arguments)


def test_a_missing_file_tells_the_four_ways(tmp_path):
    with pytest.raises(DatasetError, match="no such file") as error:
        CalibrationReader(tmp_path / "none.txt")
    assert all(way in str(error.value) for way in WAYS)


def photograph(path, size=(1200, 800), orientation=1, **tags):
    image, exif = Image.new("RGB", size), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for name, value in tags.items():
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base[name]] = value
    image.save(path, exif=exif)
    return path


def test_the_equivalent_focal_length_is_that_of_36_by_24_mm_film(tmp_path):
    path = photograph(tmp_path / "a.jpg", FocalLengthIn35mmFilm=27)
    assert exif_focal(path) == pytest.approx(27 / 36 * 1200)
    path = photograph(tmp_path / "a.jpg", (800, 1200), FocalLengthIn35mmFilm=27)
    assert exif_focal(path) == pytest.approx(27 / 36 * 1200)
    projection = CalibrationReader()(frame(source=path, width=800, height=1200))
    assert projection[0, 0] == pytest.approx(900) and projection[0, 2] == 400


@pytest.mark.parametrize("unit, resolution", [(2, 2540.0), (3, 1000.0), (4, 100.0)])
def test_the_sensors_resolution_scales_with_the_picture(tmp_path, unit, resolution):
    # 100 px per mm and 12 mm: 1200 px as taken, 2400 px wide; stored at half of that.
    tags = {
        "FocalLengthIn35mmFilm": 0,  # unknown
        "FocalLength": IFDRational(12, 1),
        "FocalPlaneXResolution": IFDRational(int(resolution), 1),
        "FocalPlaneResolutionUnit": unit,
        "ExifImageWidth": 2400,
    }
    assert exif_focal(photograph(tmp_path / "a.jpg", **tags)) == pytest.approx(600)


def test_photographs_without_focal_length_tell_the_four_ways(tmp_path):
    nonsense = photograph(tmp_path / "a.jpg", FocalLength=IFDRational(5, 0))
    for source in (nonsense, tmp_path / "video.mp4"):
        with pytest.raises(DatasetError, match="no calibration") as error:
            CalibrationReader()(frame(source=source))
        assert all(way in str(error.value) for way in WAYS)


def test_turned_photographs_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="turned"):
        exif_focal(photograph(tmp_path / "a.jpg", orientation=6, FocalLengthIn35mmFilm=27))


def test_the_equivalent_focal_length_of_a_tiff(tmp_path):
    """Its EXIF block is read from the file only when it is asked for."""
    path = tmp_path / "a.tif"
    block = {ExifTags.IFD.Exif: {ExifTags.Base.FocalLengthIn35mmFilm: 27}}
    Image.new("RGB", (1200, 800)).save(path, tiffinfo=block)
    assert exif_focal(path) == pytest.approx(27 / 36 * 1200)
