import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from qiml.config import load_config
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.trainer import Trainer
from qiml.errors import CheckpointError, exit_on_error
from qiml.modeling.official_weights import convert_gupnet, convert_monocon
from tools import convert_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def states():
    """Official state dicts by rule of nothing but name and shape; the values tell the entries apart."""
    result = {}
    for name in convert_checkpoint.BASELINES:
        spec = json.loads((ROOT / f"tests/golden/models/{name}.json").read_text())
        result[name] = {
            key: torch.full(shape, 0.001 * index).to(getattr(torch, dtype))
            for index, (key, shape, dtype) in enumerate(spec["state"])
        }
    return result


@pytest.fixture
def convert(tmp_path, capsys):
    """Function (contents of the file, name of the model) -> (converted file, printed text)."""

    def run(contents, name="monocon", steerable=False):
        source = tmp_path / "official.pth"
        torch.save(contents, source)
        before = source.read_bytes()
        try:
            convert_checkpoint.convert(source, tmp_path / "out.pth", name, steerable)
        finally:
            assert source.read_bytes() == before
            assert not list(tmp_path.rglob(".tmp-*"))
        return tmp_path / "out.pth", capsys.readouterr().out

    return run


def fails(convert, *arguments, **options):
    with pytest.raises(CheckpointError) as caught:
        convert(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", convert_checkpoint.BASELINES)
def test_converted_file_loads_into_the_model_of_its_config(states, convert, name):
    path, printed = convert({"epoch": 140, "model_state": states[name]}, name)
    config = f"configs/kitti/{name}_dla34.yaml"
    assert f"--config-file {config} --eval-only MODEL.WEIGHTS {path}" in printed
    cfg = load_config(str(ROOT / config), ["MODEL.BACKBONE.PRETRAINED", "False"])
    model = Trainer.build_model(cfg)
    DetectorCheckpointer(model).load(str(path))
    saved = torch.load(path, weights_only=True)["model"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved[key]), key


def test_waymo_model_of_deviant(states, convert):
    """Pedestrian, Car, Cyclist there, and Sign among inputs alone; Vehicle, Pedestrian, Cyclist here."""
    state = dict(states["deviant"])
    state["mean_size"] = torch.arange(12.0).reshape(4, 3)
    for name in ("depth", "offset_3d", "size_3d", "heading"):
        state[f"{name}.0.weight"] = torch.arange(70.0).expand(256, 3, 3, 70).permute(0, 3, 1, 2)
    state["heatmap.2.weight"] = torch.arange(3.0)[:, None, None, None].expand(3, 256, 1, 1)
    state["heatmap.2.bias"] = torch.arange(3.0)
    path, _ = convert(
        {"model_state": {f"module.{k}": v.clone() for k, v in state.items()}}, "deviant"
    )
    saved = torch.load(path, weights_only=True)["model"]
    order = [1.0, 0.0, 2.0]
    assert saved["box3d_head.mean_sizes"][:, 0].tolist() == [3.0, 0.0, 6.0]
    assert saved["box3d_head.heatmap.2.bias"].tolist() == order
    assert saved["box3d_head.heatmap.2.weight"][:, 0, 0, 0].tolist() == order
    channels = [*range(66), 67, 66, 68]
    for name in ("depth", "offset_3d", "size_3d", "heading"):
        assert saved[f"box3d_head.{name}.0.weight"][5, :, 1, 1].tolist() == channels


@pytest.mark.parametrize("ours", [False, True], ids=["official", "ours"])
def test_steerable_backbone_in_place_of_an_ordinary_one(states, convert, ours):
    """The rest of the detector comes along; our own checkpoint may have its losses' weights in it."""
    contents, expected = {"model_state": states["gupnet"]}, convert_gupnet(states["gupnet"])
    if ours:
        scale = {"metric_loss.log_scale": torch.zeros(())}
        contents = {"model": expected | scale, "trainer": {"iteration": 3}}
    path, printed = convert(contents, "gupnet", steerable=True)
    overrides = ["MODEL.BACKBONE.NAME", "SteerableDLA", "MODEL.BACKBONE.PRETRAINED", "False"]
    assert f"MODEL.BACKBONE.NAME SteerableDLA MODEL.WEIGHTS {path}" in printed
    cfg = load_config(str(ROOT / "configs/kitti/gupnet_dla34.yaml"), overrides)
    model = Trainer.build_model(cfg)
    DetectorCheckpointer(model).load(str(path))
    state = model.state_dict()
    for name, value in expected.items():
        if name.startswith("backbone.") and value.shape[2:].numel() > 1:
            convolution = model.get_submodule(name.removesuffix(".weight"))
            value = convolution.fit(value)
            assert value.any()
        assert torch.equal(state[name], value), name


def test_kernels_that_cannot_be_steered(states, convert, capsys):
    name = "backbone.level2.tree1.conv1.weight"
    state = {**states["gupnet"], name: torch.zeros(64, 32, 5, 5)}
    assert "1 weights of another shape" in fails(convert, state, "gupnet", steerable=True)
    assert "conv1.weight (64, 32, 5, 5), not (64, 32, 9)" in capsys.readouterr().out


WRAPPERS = {
    "bare": lambda state: state,
    "MonoDLE": lambda state: {"epoch": 3, "model_state": state, "optimizer_state": {"state": {}}},
    "MMDetection3D": lambda state: {"meta": {"epoch": 3, "seed": None}, "state_dict": state},
    "monocon-pytorch": lambda state: {
        "engine_attrs": {"epochs": 3, "losses": [np.float64(0.5), np.float32(2)]},
        "state_dict": {"model": state, "optimizer": {"state": {0: {"step": 3}}}, "scheduler": None},
    },
    "several GPUs": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "arrays": lambda state: {"model": state, "loss": np.arange(4.0), "at": np.datetime64(1, "D")},
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_weights(states, convert, kind):
    path, _ = convert(WRAPPERS[kind](states["monocon"]))
    saved = torch.load(path, weights_only=True)["model"]
    expected = convert_monocon(states["monocon"])
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], value) for key, value in expected.items())


def test_older_file_format(states, tmp_path):
    """Of torch before 1.6, with numbers of NumPy."""
    source = tmp_path / "old.pth"
    contents = {"best": np.float64(17.5), "model_state": states["monodle"]}
    torch.save(contents, source, _use_new_zipfile_serialization=False)
    weights = convert_checkpoint.read_weights(source)
    assert weights.keys() == states["monodle"].keys()


class Evil:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_code_is_refused_and_does_not_run(states, tmp_path, new_format):
    source, trace = tmp_path / "evil.pth", tmp_path / "trace"
    contents = {"model_state": states["monocon"], "extra": Evil(trace)}
    torch.save(contents, source, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        CheckpointError, match=r"pickled code or objects in it .*none of it was run"
    ):
        convert_checkpoint.convert(source, tmp_path / "out.pth", "monocon")
    assert not trace.exists() and not (tmp_path / "out.pth").exists()
    torch.load(source, weights_only=False)
    assert trace.exists()  # this would have run it


def test_objects_of_the_official_code_are_left_out(states, convert, monkeypatch):
    """monocon-pytorch saves its data set along."""
    module = types.ModuleType("dataset.monocon_dataset")
    module.MonoConDataset = type("MonoConDataset", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, "dataset", types.ModuleType("dataset"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    data = module.MonoConDataset()
    data.split, data.sizes = "val", {"train": 3712}
    path, _ = convert({"engine_attrs": {"data": data}, "state_dict": {"model": states["monocon"]}})
    assert path.is_file()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("monodle", "monocon"),
        ("monocon", "gupnet"),
        ("gupnet", "did_m3d"),
        ("did_m3d", "deviant"),
        ("deviant", "monodle"),
    ],
)
def test_checkpoint_of_another_model(states, convert, capsys, name, other):
    message = fails(convert, states[other], name)
    assert f"it looks like a checkpoint of {other}" in message
    assert f"use --from {other}" in message
    printed = capsys.readouterr().out
    assert "unknown:" in printed and "missing:" in printed and "more" in printed


def test_checkpoint_of_nothing_we_know(convert):
    message = fails(convert, {"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)})
    assert "2 weights unknown" in message and "looks like" not in message


def test_names_and_shapes_that_do_not_fit(states, convert, capsys):
    state = dict(states["monocon"])
    state["head.extra.weight"] = torch.zeros(1)
    del state["head.depth_head.3.bias"]
    state["head.heatmap_head.3.weight"] = torch.zeros(1, 64, 1, 1)
    message = fails(convert, state)
    assert "1 weights unknown, 1 weights missing, 1 weights of another shape" in message
    printed = capsys.readouterr().out
    for line in (
        "head.extra.weight",
        "box3d_head.depth.3.bias",
        "box3d_head.heatmap.3.weight (1, 64, 1, 1), not (3, 64, 1, 1)",
    ):
        assert f"    {line}\n" in printed


def test_missing_auxiliary_weights_are_no_mistake(states, convert):
    """Evaluation does not need them."""
    state = {k: v for k, v in states["monocon"].items() if not k.startswith("head.kpt_")}
    path, _ = convert(state)
    assert path.is_file()


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        ({"epoch": 3}, "no weights by name (but ['epoch'])"),
        ([1, 2], "no weights by name (but list)"),
        ({"model_state": {}}, "no weights by name"),
        ({"model_state": {"a": 3}}, "no weights by name"),
    ],
)
def test_no_weights(convert, contents, found):
    assert found in fails(convert, contents)


def test_broken_file_keeps_an_old_output(tmp_path):
    source, target = tmp_path / "torn.pth", tmp_path / "out.pth"
    source.write_bytes(b"PK\x03\x04 torn")
    target.write_text("old")
    for path, found in ((source, "cannot be read"), (tmp_path / "gone.pth", "no such file")):
        with pytest.raises(CheckpointError, match=found):
            convert_checkpoint.convert(path, target, "monodle")
    assert target.read_text() == "old"


def test_input_is_not_overwritten(states, tmp_path):
    source = tmp_path / "official.pth"
    torch.save(states["monocon"], source)
    with pytest.raises(CheckpointError, match="found the input file"):
        convert_checkpoint.convert(source, source, "monocon")


def test_exit_code_and_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught, exit_on_error():
        convert_checkpoint.convert(tmp_path / "gone.pth", tmp_path / "out.pth", "monodle")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help(run_script):
    code, printed, _ = run_script(convert_checkpoint.__file__, "--help")
    assert code == 0 and "--eval-only" in printed
    assert "--from {monodle,gupnet,did_m3d,monocon,deviant}" in printed
