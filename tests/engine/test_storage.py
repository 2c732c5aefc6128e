import pickle

import pytest

from qiml.engine.storage import RunStorage
from qiml.errors import ConfigError


@pytest.fixture(params=["path", "uri"])
def storage(request, tmp_path):
    root = tmp_path / "store"
    return RunStorage.open(str(root) if request.param == "path" else f"file://{root}", "run")


def test_text(storage, tmp_path):
    assert not storage.exists("a.txt")
    storage.write_text("a.txt", "first")
    storage.write_text("a.txt", "ε")
    assert pickle.loads(pickle.dumps(storage)).read_text("a.txt") == "ε"
    assert [path.name for path in (tmp_path / "store/run").iterdir()] == ["a.txt"]


def test_files_go_up_and_come_down(storage, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    (there / "results").mkdir(parents=True)
    back.mkdir()
    (there / "log.txt").write_text("log")
    (there / "results/1.txt").write_text("1")
    storage.upload(there.rglob("*.txt"), there, "output")
    assert (tmp_path / "store/run/output/results/1.txt").read_text() == "1"
    storage.download("output", back)
    assert [path.name for path in back.iterdir()] == ["log.txt"]
    storage.download("nothing", back)


def test_other_file_systems_come_from_fsspec():
    storage = RunStorage.open("memory://somewhere", "run")
    storage.write_text("a.txt", "kept")
    assert storage.read_text("a.txt") == "kept"


@pytest.mark.parametrize(
    "uri", ["/proc/nothing/here", "file.txt/below", "nosuchkind://bucket", "s3://"]
)
def test_storage_that_cannot_be_written_to(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(
        ConfigError, match=f"--storage-path: found {uri}, which cannot be written to"
    ):
        RunStorage.open(uri, "run")


@pytest.mark.parametrize("name", ["", "a/b", ".hidden"])
def test_names_that_are_no_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="--name"):
        RunStorage.open(str(tmp_path), name)
