import os

import pytest

from qiml.errors import OutputError
from qiml.io import atomic_folder, atomic_path, atomic_write_text, remove_partial, visible_files


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


def test_what_the_system_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for write in (atomic_path, atomic_folder):
        with (
            pytest.raises(OutputError, match=r"file/a: found .*To mend it"),
            write(tmp_path / "file" / "a"),
        ):
            pass


def test_a_folder_takes_the_place_of_another(tmp_path):
    folder = tmp_path / "results"
    for name in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / name).write_text("")
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        (temporary / "half").write_text("")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    folder, rename = tmp_path / "results", os.rename
    (folder / "old").mkdir(parents=True)
    refused = []

    def refuse_the_second(source, target):
        if target == folder and not refused:
            refused.append(source)
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_second)
    with pytest.raises(OutputError, match="No space left"), atomic_folder(folder):
        pass
    assert refused and [path.name for path in tmp_path.rglob("*")] == ["results", "old"]


def test_what_starts_with_a_dot_is_not_visible(tmp_path):
    for name in ("b.txt", "a.txt", ".tmp-0-a.txt", "c.png"):
        (tmp_path / name).write_text("")
    assert [path.name for path in visible_files(tmp_path, "*.txt")] == ["a.txt", "b.txt"]
    assert len(visible_files(tmp_path)) == 3


def test_what_a_killed_program_left_is_removed(tmp_path):
    for name in (".tmp-0-a.pth", "a.pth", "other/.tmp-0-b.txt", ".tmp-1-results/000000.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"a.pth", "other", "other/.tmp-0-b.txt"}
    remove_partial(tmp_path / "no such folder")
