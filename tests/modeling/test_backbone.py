import pickle

import pytest
import timm
import torch

from qiml.errors import CheckpointError, ConfigError
from qiml.modeling.backbone import TimmBackbone

THIN = {"stem_width": 8, "channels": [16, 16, 32, 32]}


def thin(**arguments):
    return TimmBackbone("resnet10t", options=THIN, **arguments)


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        ("dla34", {}, [64, 128, 256, 512]),
        ("resnet18", {}, [64, 128, 256, 512]),
        ("resnet10t", THIN, [16, 16, 32, 32]),
    ],
)
def test_strides_and_channels(name, options, channels):
    """Declared, and those of the maps themselves."""
    backbone = TimmBackbone(name, options=options).eval()
    shapes = backbone.output_shape()
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    assert [shape.channels for shape in shapes.values()] == channels
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert maps.keys() == shapes.keys()
    for key, shape in shapes.items():
        assert maps[key].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("name", ["dla35", "", "no such model"])
def test_unknown_model(name):
    with pytest.raises(ConfigError, match=rf"MODEL\.BACKBONE\.TIMM_NAME: found '{name}'"):
        TimmBackbone(name)


def test_model_without_the_strides():
    """A transformer has one."""
    with pytest.raises(
        ConfigError, match=r"MODEL\.BACKBONE\.TIMM_NAME: found 'vit_tiny.*strides \[16\]"
    ):
        TimmBackbone("vit_tiny_patch16_224")


@pytest.fixture
def full_state():
    """Weights of the whole model, classifier and all, as one would download them."""
    torch.manual_seed(1)
    return timm.create_model("resnet10t", **THIN).state_dict()


def test_local_weights(tmp_path, full_state):
    path = tmp_path / "thin.pth"
    torch.save(full_state, path)
    state = thin(weights=str(path), pretrained=True).body.state_dict()
    assert len(state) > 20
    assert all(torch.equal(value, full_state[key]) for key, value in state.items())


def test_local_weights_of_dla34(tmp_path):
    """The names inside DLA survive timm's feature extractor."""
    state = timm.create_model("dla34").state_dict()
    torch.save(state, tmp_path / "dla34.pth")
    body = TimmBackbone("dla34", weights=str(tmp_path / "dla34.pth")).body.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in body.items())


def test_local_weights_of_a_model_whose_layers_timm_renames(tmp_path):
    state = timm.create_model("convnext_atto").state_dict()
    torch.save(state, tmp_path / "convnext.pth")
    body = TimmBackbone("convnext_atto", weights=str(tmp_path / "convnext.pth")).body.state_dict()
    assert "stages_3.downsample.1.weight" in body
    renamed = {key.replace("stages_", "stages.").replace("stem_", "stem."): key for key in body}
    assert all(torch.equal(body[key], state[name]) for name, key in renamed.items())


def test_safetensors(tmp_path, full_state):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(full_state, tmp_path / "thin.safetensors")
    state = thin(weights=str(tmp_path / "thin.safetensors")).body.state_dict()
    assert all(torch.equal(value, full_state[key]) for key, value in state.items())


def test_weights_of_another_model(tmp_path, full_state):
    path = tmp_path / "thin.pth"
    torch.save(full_state, path)
    with pytest.raises(
        CheckpointError, match=r"thin\.pth: found \d+ missing or differently shaped"
    ):
        TimmBackbone("resnet18", weights=str(path))


def test_no_such_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pth: found no such file"):
        thin(weights=str(tmp_path / "gone.pth"))


class Malicious:
    """Runs a function when unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the file's code has run",)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_pickled_code_is_refused(tmp_path, protocol):
    path = tmp_path / "evil.pth"
    if protocol == "torch":
        torch.save({"state_dict": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pth: found a file that cannot be read"):
        thin(weights=str(path))


def test_torn_weights(tmp_path, full_state):
    path = tmp_path / "thin.pth"
    torch.save(full_state, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"thin\.pth: found a file that cannot be read"):
        thin(weights=str(path))


def test_file_that_holds_no_weights(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth: found"):
        thin(weights=str(tmp_path / "list.pth"))


def test_pretrained_without_a_network_says_how(monkeypatch):
    create_model = timm.create_model

    def offline(name, **arguments):
        if arguments.get("pretrained"):
            raise OSError("Name or service not known")
        return create_model(name, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError) as caught:
        thin(pretrained=True)
    for hint in ("MODEL.BACKBONE.PRETRAINED", "resnet10t", "MODEL.BACKBONE.WEIGHTS", "False"):
        assert hint in str(caught.value)
    assert "\n" not in str(caught.value) and "Name or service not known" in str(caught.value)
    thin()


def test_wrong_option():
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.TIMM_OPTIONS: found .*stem_widht"):
        TimmBackbone("resnet10t", options={"stem_widht": 8})
