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
from qiml.losses.heading import BIN_SIZE
from qiml.modeling.targets import ObjectTargets
from qiml.structures.boxes3d import alpha_to_rotation_y
from qiml.structures.camera import Camera

GOLDEN_MODELS = Path(__file__).parents[1] / "golden" / "models"


@dataclass(frozen=True)
class GoldenModel:
    """Weights (official names), input images and recorded arrays of one official model."""

    state: dict[str, torch.Tensor]
    images: torch.Tensor
    arrays: dict[str, np.ndarray]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.tensor(self.arrays[name])

    @property
    def cameras(self) -> Camera:
        """(2, 3, 4) of the original images; the official code divides by z alone (see Camera)."""
        projections = self.tensor("calib/P2").clone()
        projections[:, 2, 3] = 0
        return Camera(projections)

    def targets(self, cameras: Camera, affines: torch.Tensor) -> ObjectTargets:
        """The padded target slots of MonoDLE's family as flat objects; slots with mask_2d hold one.

        Args:
            cameras: (2, 3, 4) of the input images.
            affines: (2, 2, 3) original → input pixels.
        """
        mask = self.tensor("target/mask_2d")
        image_index, slot = mask.nonzero(as_tuple=True)

        def column(name):
            return self.tensor(f"target/{name}")[image_index, slot].squeeze(-1)

        map_size = tuple(self.arrays["target/heatmap"].shape[-2:])
        index = column("indices")
        cells = torch.stack([index % map_size[1], index // map_size[1]], dim=1)
        middle, half = cells + column("offset_2d"), column("size_2d") / 2
        alpha = column("heading_bin") * BIN_SIZE + column("heading_res")
        cameras = Camera(cameras.projection[image_index])
        rays = cameras.ray_angle(middle[:, :1] * 4).squeeze(1)
        return ObjectTargets(
            image_index=image_index,
            classes=column("cls_ids"),
            cells=cells,
            projected_centres=cells + column("offset_3d"),
            boxes2d=torch.cat([middle - half, middle + half], dim=1),
            depth=column("depth"),
            apparent_depth=column("depth"),
            dimensions=column("size_3d"),
            yaw=alpha_to_rotation_y(alpha, rays),
            alpha=alpha,
            has_3d=column("mask_3d" if "target/mask_3d" in self.arrays else "mask_2d").bool(),
            cameras=cameras,
            affines=affines[image_index],
            num_images=len(mask),
            map_size=map_size,
        )


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
        kept = {key: f"kept/{key}" for key in spec["kept"]} | spec.get("kept_as", {})
        state = {
            key: torch.tensor(arrays[kept[key]] if key in kept else _weight(key, shape, spec))
            for key, shape, _ in spec["state"]
        }
        images = np.random.default_rng([7, spec["salt"]]).normal(size=(2, 3, 96, 320))
        images = images.astype(np.float32)
        np.testing.assert_array_equal(images.flatten()[:16], arrays["input/first16"])
        return GoldenModel(state, torch.tensor(images), arrays)

    return load


@pytest.fixture(scope="session")
def golden_weight():
    """Function (name, shape, rule) -> an official model's weight by that rule."""
    return _weight


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
