"""Golden values of official detectors: their weights by rule, their numbers from files."""

import contextlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import qiml.modeling  # noqa: F401  registers the model
from qiml.config import load_config

GOLDEN_MODELS = Path(__file__).parents[1] / "golden" / "models"


@dataclass(frozen=True)
class GoldenModel:
    """Weights (official names), input images and recorded arrays of one official model."""

    state: dict[str, torch.Tensor]
    images: torch.Tensor
    arrays: dict[str, np.ndarray]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.tensor(self.arrays[name])


def _weight(name, shape, spec):
    """The rule of tests/golden/models/*.json (`fill_rule`): a weight from its name and shape."""
    x = np.random.default_rng([zlib.crc32(name.encode()), spec["salt"]]).normal(size=shape)
    last = name.split(".")[-1]
    if last == "num_batches_tracked":
        return np.int64(0)
    if last == "running_var":
        value = 1 + 0.1 * abs(x)
    elif last == "running_mean":
        value = 0.1 * x
    elif len(shape) == 1 and last == "weight":
        value = 1 + 0.1 * x
    elif len(shape) == 1 and last == "bias":
        value = 0.05 * x
    else:
        value = x * np.sqrt(spec["GAIN"] / np.prod(shape[1:]))
    if name in spec["overrides"]:
        override = spec["overrides"][name]
        value = value * override["scale"] + np.array(override["shift"])
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def golden_model():
    """Function name -> GoldenModel, for the files of tests/golden/models."""

    def load(name: str) -> GoldenModel:
        spec = json.loads((GOLDEN_MODELS / f"{name}.json").read_text())
        arrays = dict(np.load(GOLDEN_MODELS / f"{name}.npz"))
        kept = set(spec["kept"])
        state = {
            key: torch.tensor(arrays[f"kept/{key}"] if key in kept else _weight(key, shape, spec))
            for key, shape, _ in spec["state"]
        }
        images = np.random.default_rng([7, spec["salt"]]).normal(size=(2, 3, 96, 320))
        images = images.astype(np.float32)
        np.testing.assert_array_equal(images.flatten()[:16], arrays["input/first16"])
        return GoldenModel(state, torch.tensor(images), arrays)

    return load


@pytest.fixture(scope="session")
def official_detector():
    """Function (converted weights, KEY, VALUE, …) -> the detector of that config with them, in eval mode."""

    def make(state: dict[str, torch.Tensor], *overrides: object) -> torch.nn.Module:
        always = ("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAINED", False)
        model = build_model(load_config("", [str(x) for x in (*always, *overrides)]))
        model.load_state_dict(state, strict=True)
        return model.eval()

    return make


@contextlib.contextmanager
def _train_mode(model: torch.nn.Module):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        yield model.train()
    finally:
        model.eval().load_state_dict(state)


@pytest.fixture(scope="session")
def train_mode():
    """Context in which a model trains; its weights and statistics come back."""
    return _train_mode


def relative_error(value: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference over the largest absolute value, the measure of the golden files."""
    return float(np.abs(value.detach().numpy() - expected).max() / np.abs(expected).max())


@pytest.fixture(name="relative_error")
def _relative_error():
    return relative_error
