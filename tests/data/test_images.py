import io

import cv2
import numpy as np
import pytest
from PIL import Image

from qiml.data.images import read_image, read_image_size, write_image
from qiml.errors import ConfigError, DatasetError

PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (64, 48))


def test_pictures_are_written_as_rgb(tmp_path):
    write_image(tmp_path / "new" / "a.png", PICTURE)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "a.png"))[..., ::-1], PICTURE)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), PICTURE)
    assert read_image_size(tmp_path / "new" / "a.png") == (64, 48)


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.nothing"):
        write_image(tmp_path / "new" / "a.nothing", PICTURE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("missing", [2, 40, 400])
def test_torn_files_are_refused(tmp_path, extension, missing):
    file = tmp_path / f"a{extension}"
    write_image(file, PICTURE)
    file.write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(DatasetError, match=r"a\.(png|jpg): found"):
        read_image(file)


def photograph(thumbnail: bytes) -> bytes:
    """A JPEG whose EXIF data hold another, as those of cameras do."""
    data = io.BytesIO()
    Image.fromarray(PICTURE).save(data, "JPEG", exif=b"Exif\0\0" + thumbnail)
    return data.getvalue()


def test_a_thumbnail_does_not_hide_a_torn_picture(tmp_path):
    data = photograph(thumbnail=photograph(b""))
    assert data.count(b"\xff\xd9") == 2
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg").shape == PICTURE.shape
    (tmp_path / "a.jpg").write_bytes(data[:-200])
    with pytest.raises(DatasetError, match="ends too early"):
        read_image(tmp_path / "a.jpg")


def test_bytes_behind_a_picture_do_no_harm(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photograph(b"") + b"a camera's own data" * 50)
    assert read_image(tmp_path / "a.jpg").shape == PICTURE.shape


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"no picture", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [read_image, read_image_size])
def test_what_is_no_picture_is_named(tmp_path, content, read):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.png: found .*expected a PNG or JPEG"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_image_size])
def test_no_picture_at_all(tmp_path, read):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(DatasetError, match=r"found .*(o such file|directory)"):
            read(path)
