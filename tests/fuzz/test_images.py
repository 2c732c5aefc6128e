"""PNG and JPEG files; dense depth maps; photographs with EXIF data."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import ExifTags, Image

from qiml.data.calibration import exif_focal
from qiml.data.depth_map import read_depth_map
from qiml.data.images import read_image, read_image_size
from qiml.errors import DatasetError
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.mutations import damaged_bytes

PICTURE = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8), (80, 48)
)


def encoded(extension: str) -> bytes:
    return cv2.imencode(extension, PICTURE)[1].tobytes()


def photograph() -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 27
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLength] = 5.5
    Image.fromarray(PICTURE).save(file, "JPEG", exif=exif)
    return file.getvalue()


PNG, JPEG, PHOTOGRAPH = encoded(".png"), encoded(".jpg"), photograph()
DEPTH = cv2.imencode(".png", PICTURE[..., 0].astype(np.uint16) * 99)[1].tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("images")


def check(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.write_bytes(data)
    image = attempt("images", lambda: read_image(path), path)
    if image is not None:
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    size = attempt("image headers", lambda: read_image_size(path), path)
    if size is not None:
        assert min(size) > 0


@fuzz(120, data=damaged_bytes(PNG))
def test_png(folder, data):
    check(folder, "a.png", data)


@fuzz(150, data=damaged_bytes(JPEG))
def test_jpeg(folder, data):
    check(folder, "a.jpg", data)


@fuzz(80, data=damaged_bytes(DEPTH))
def test_depth_maps(folder, data):
    path = folder / "depth.png"
    path.write_bytes(data)
    depth = attempt("depth maps", lambda: read_depth_map(path, (80, 48)), path)
    if depth is not None:
        assert depth.shape == (48, 80) and depth.dtype == np.float32


@fuzz(30, missing=st.integers(1, len(DEPTH) - 1))
def test_torn_depth_maps_never_read(folder, missing):
    path = folder / "torn.png"
    path.write_bytes(DEPTH[:-missing])
    with pytest.raises(DatasetError, match=r"torn\.png"):
        read_depth_map(path, (80, 48))


@fuzz(60, data=st.sampled_from((PNG, JPEG, PHOTOGRAPH)), missing=st.integers(1, len(JPEG) - 1))
def test_torn_files_never_read(folder, data, missing):
    path = folder / "torn.png"
    path.write_bytes(data[:-missing])
    with pytest.raises(DatasetError, match=r"torn\.png"):
        read_image(path)


@fuzz(80, data=damaged_bytes(PHOTOGRAPH))
def test_photographs(folder, data):
    path = folder / "photo.jpg"
    path.write_bytes(data)
    focal = attempt("EXIF", lambda: exif_focal(path), path)
    if focal is not None:
        assert 0 < focal < float("inf")
