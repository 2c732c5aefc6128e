import errno
import os

import pytest
import torch
from detectron2.engine import TrainerBase

from qiml.engine.checkpoint import DetectorCheckpointer, is_intact
from qiml.engine.trainer import Trainer
from qiml.errors import CheckpointError, OutputError


@pytest.fixture
def make_detector(tiny_config):
    def make(*overrides, seed=0):
        torch.manual_seed(seed)
        return Trainer.build_model(tiny_config(*overrides))

    return make


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_saved_weights_load(make_detector, tmp_path):
    saved, loaded = make_detector(), make_detector(seed=1)
    DetectorCheckpointer(saved, tmp_path).save("model_0000007", iteration=7)
    extra = DetectorCheckpointer(loaded).load(str(tmp_path / "model_0000007.pth"))
    assert extra["iteration"] == 7
    assert_equal(loaded.state_dict(), saved.state_dict())


def test_resume_takes_the_last_checkpoint(make_detector, tmp_path):
    checkpointer = DetectorCheckpointer(make_detector(), tmp_path)
    checkpointer.save("first", iteration=1)
    checkpointer.save("second", iteration=2)
    extra = checkpointer.resume_or_load(str(tmp_path / "first.pth"), resume=True)
    assert extra["iteration"] == 2
    assert checkpointer.resume_or_load(str(tmp_path / "first.pth"), resume=False)["iteration"] == 1


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_state_dict_loads(make_detector, tmp_path, prefix):
    saved, loaded = make_detector(), make_detector(seed=1)
    state = {prefix + key: value for key, value in saved.state_dict().items()}
    torch.save(state, tmp_path / "bare.pth")
    DetectorCheckpointer(loaded).load(str(tmp_path / "bare.pth"))
    assert_equal(loaded.state_dict(), saved.state_dict())


def test_auxiliary_head_may_be_left_over_or_missing(make_detector, tmp_path):
    with_head, without = make_detector(), make_detector("MODEL.OBJECT_DEPTH.ENABLED", False, seed=1)
    DetectorCheckpointer(with_head, tmp_path).save("with")
    DetectorCheckpointer(without).load(str(tmp_path / "with.pth"))
    shared = without.state_dict()
    assert_equal(shared, {key: with_head.state_dict()[key] for key in shared})

    DetectorCheckpointer(without, tmp_path).save("without")
    fresh = make_detector(seed=2)
    head = {key: value.clone() for key, value in fresh.object_depth_head.state_dict().items()}
    DetectorCheckpointer(fresh).load(str(tmp_path / "without.pth"))
    assert_equal({key: fresh.state_dict()[key] for key in shared}, shared)
    assert_equal(fresh.object_depth_head.state_dict(), head)


def test_another_architecture_is_refused_and_changes_nothing(make_detector, tmp_path):
    saved = make_detector("MODEL.NECK.UPSAMPLE", "learned", "MODEL.BOX3D_HEAD.HIDDEN_CHANNELS", 8)
    DetectorCheckpointer(saved, tmp_path).save("other")
    model = make_detector(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        DetectorCheckpointer(model).load(str(tmp_path / "other.pth"))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "other.pth"))
    assert "6 unknown weights (such as neck.stages.0.upsamples.0.weight)" in message
    assert "weights of another shape (such as box3d_head.depth.0.bias)" in message
    assert "missing" not in message and "\n" not in message
    assert_equal(model.state_dict(), before)

    DetectorCheckpointer(model, tmp_path).save("plain")
    with pytest.raises(CheckpointError, match="6 missing weights"):
        DetectorCheckpointer(saved).load(str(tmp_path / "plain.pth"))


class Malicious:
    """Runs a function when unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the file's code has run",)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth"])
def test_pickled_code_is_refused(make_detector, tmp_path, suffix):
    """Whatever the extension: Detectron2's own checkpointer unpickles .pkl and .pyth files."""
    path = tmp_path / f"evil{suffix}"
    model = make_detector()
    torch.save({"model": model.state_dict(), "extra": Malicious()}, path)
    with pytest.raises(CheckpointError, match="found a file that cannot be read as tensors"):
        DetectorCheckpointer(model).load(str(path))


def test_torn_file(make_detector, tmp_path):
    checkpointer = DetectorCheckpointer(make_detector(), tmp_path)
    checkpointer.save("torn")
    path = tmp_path / "torn.pth"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"torn\.pth: found .*may be torn"):
        checkpointer.load(str(path))


@pytest.mark.parametrize(
    "content",
    [[1, 2], torch.zeros(3), {"model": 3}, {"model": {"a": 3}}, 3],
    ids=["list", "tensor", "number as model", "number as weight", "number"],
)
def test_file_that_holds_no_weights(make_detector, tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth: found"):
        DetectorCheckpointer(make_detector()).load(str(tmp_path / "odd.pth"))


def test_missing_file(make_detector, tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pth: found no such file"):
        DetectorCheckpointer(make_detector()).load(str(tmp_path / "gone.pth"))


def test_no_file_named(make_detector):
    assert DetectorCheckpointer(make_detector()).load("") == {}


def test_a_failing_write_leaves_the_last_checkpoint(make_detector, tmp_path, monkeypatch):
    checkpointer = DetectorCheckpointer(make_detector(), tmp_path)
    checkpointer.save("model", iteration=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(_data, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        for name in ("model", "next"):
            with pytest.raises(OutputError, match="No space"):
                checkpointer.save(name, iteration=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1


def test_the_last_checkpoint_is_renamed_in_one_stroke(make_detector, tmp_path):
    """A run killed while it overwrote the name would have none to resume from."""
    checkpointer = DetectorCheckpointer(make_detector(), tmp_path)
    checkpointer.save("first")
    os.link(tmp_path / "last_checkpoint", tmp_path / "same file")
    checkpointer.save("second")
    assert (tmp_path / "last_checkpoint").read_text() == "second.pth"
    assert (tmp_path / "same file").read_text() == "first.pth"  # not overwritten in place


def test_only_the_main_worker_writes(make_detector, tmp_path):
    DetectorCheckpointer(make_detector(), tmp_path, save_to_disk=False).save("model")
    assert not list(tmp_path.iterdir())


def save_three(make_detector, folder, **options):
    checkpointer = DetectorCheckpointer(make_detector(), str(folder), **options)
    for iteration in (9, 19, 29):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return checkpointer


def flip_a_bit(path):
    """Deep in a tensor, where PyTorch's reader does not look for damage."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda p: p.write_bytes(p.read_bytes()[:-9]), os.remove]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(make_detector, tmp_path, caplog, damage):
    checkpointer = save_three(make_detector, tmp_path)
    damage(tmp_path / "model_0000029.pth")
    caplog.set_level("WARNING", logger=checkpointer.logger.name)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 19
    assert "model_0000029.pth is missing or damaged" in caplog.text


def test_no_checkpoint_is_intact(make_detector, tmp_path):
    """Then a run does not start over in silence."""
    checkpointer = save_three(make_detector, tmp_path)
    for path in tmp_path.glob("*.pth"):
        flip_a_bit(path)
    with pytest.raises(
        CheckpointError, match=r"no intact checkpoint among model_0000029\.pth, model_"
    ):
        checkpointer.resume_or_load("", resume=True)


def test_a_flipped_bit_is_found(make_detector, tmp_path):
    checkpointer = save_three(make_detector, tmp_path)
    flip_a_bit(tmp_path / "model_0000009.pth")
    with pytest.raises(CheckpointError, match="may be torn"):
        checkpointer.load(str(tmp_path / "model_0000009.pth"))


@pytest.mark.parametrize("keep, kept", [(2, [19, 29]), (1, [29]), (0, [9, 19, 29])])
def test_the_last_checkpoints_stay(make_detector, tmp_path, keep, kept):
    (tmp_path / "model_final.pth").touch()
    save_three(make_detector, tmp_path, keep=keep)
    expected = [f"model_{iteration:07d}.pth" for iteration in kept] + ["model_final.pth"]
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == expected


def test_an_earlier_run_in_the_folder_goes_first(make_detector, tmp_path):
    """Whatever its numbers: what was just written stays."""
    save_three(make_detector, tmp_path)
    checkpointer = DetectorCheckpointer(make_detector(), str(tmp_path), keep=2)
    for iteration in (4, 5):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000004.pth", "model_0000005.pth"]


@pytest.mark.parametrize("state", [None, 3, {"iteration": 1}])
def test_a_checkpoint_without_a_training_to_go_on_with_is_named(make_detector, tmp_path, state):
    class Trainer(TrainerBase):
        def load_state_dict(self, state_dict):
            self.optimizer = state_dict["optimizer"]

    model = make_detector()
    content = {"model": model.state_dict()} | ({} if state is None else {"trainer": state})
    torch.save(content, tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    checkpointer = DetectorCheckpointer(model, str(tmp_path), trainer=Trainer())
    with pytest.raises(
        CheckpointError, match=r"model_0000001\.pth: found weights, but no training"
    ):
        checkpointer.resume_or_load("", resume=True)
    checkpointer.load(str(tmp_path / "model_0000001.pth"), checkpointables=[])


def test_a_file_that_only_seems_intact_is_passed_over(make_detector, tmp_path):
    """Zip archives may have something in front of them; PyTorch's may not."""
    checkpointer = DetectorCheckpointer(make_detector(), str(tmp_path))
    for number in (1, 2):
        checkpointer.save(f"model_000000{number}", iteration=number)
    path = tmp_path / "model_0000002.pth"
    path.write_bytes(b"P" + path.read_bytes())
    assert is_intact(path)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
