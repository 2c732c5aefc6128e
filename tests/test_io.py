import pytest

from qiml.io import atomic_path, atomic_write_text


def test_text_is_written_as_it_is(tmp_path):
    atomic_write_text(tmp_path / "new" / "a.txt", "é\r\nb\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\r\nb\n".encode()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "image.png"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("half")
        assert file.read_text() == "old"
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
