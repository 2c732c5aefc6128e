import pytest

from qiml.engine.ray_train import set_damaged_list_aside
from qiml.engine.ray_worker import DAMAGED_LIST, RAYS_LIST
from qiml.engine.storage import RunStorage


@pytest.fixture
def storage(tmp_path):
    return RunStorage.open(str(tmp_path), "run")


@pytest.mark.parametrize("content", ["", '{"checkpoint_results": [{"chec'])
def test_a_damaged_list_stands_in_nobodys_way(storage, caplog, content):
    storage.write_text(RAYS_LIST, content)
    set_damaged_list_aside(storage)
    assert not storage.exists(RAYS_LIST)
    assert storage.read_text(DAMAGED_LIST) == content
    assert "is damaged" in caplog.text


def test_a_whole_list_stays(storage):
    storage.write_text(RAYS_LIST, "{}")
    set_damaged_list_aside(storage)
    assert storage.read_text(RAYS_LIST) == "{}"


def test_a_new_run_has_no_list(storage):
    set_damaged_list_aside(storage)
