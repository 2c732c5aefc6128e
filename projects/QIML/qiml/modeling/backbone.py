"""Image backbones from timm, as Detectron2 backbones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from qiml.errors import CheckpointError, ConfigError


class TimmBackbone(Backbone):
    """Feature maps of a timm model at strides 4, 8, 16, 32, named ``stride4`` … ``stride32``.

    Args:
        name: a timm model with ``features_only`` support: dla34, resnet18, …
        pretrained: download timm's ImageNet weights (needs the network, or a filled cache).
        weights: local file with this model's weights instead (.pth or .safetensors); "" for none.
        options: further arguments of the timm model, such as channels and stem_width of a thin ResNet.

    Raises:
        ConfigError: the name is not a timm model with these strides, an option is not the model's, or its
            weights cannot be downloaded.
        CheckpointError: the local file is not this model's.
    """

    STRIDES = (4, 8, 16, 32)

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str = "",
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.body = _create_body(name, pretrained and not weights, dict(options or {}))
        if weights:
            _load_body_weights(self.body, name, weights)
        info = self.body.feature_info
        self._out_features = [f"stride{stride}" for stride in self.STRIDES]
        self._out_feature_strides = dict(zip(self._out_features, self.STRIDES, strict=True))
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised image to {"stride4": (B, C4, H/4, W/4), …}."""
        return dict(zip(self._out_features, self.body(image), strict=True))

    @property
    def size_divisibility(self) -> int:
        return self.STRIDES[-1]


def _create_body(name: str, pretrained: bool, options: dict[str, Any]) -> torch.nn.Module:
    if name not in timm.list_models():
        raise ConfigError(
            "MODEL.BACKBONE.TIMM_NAME",
            found=repr(name),
            expected="the name of a timm model",
            mend="choose dla34, resnet18 or another name of timm.list_models()",
        )
    indices = _level_indices(name, options)
    try:
        return timm.create_model(
            name, features_only=True, out_indices=indices, pretrained=pretrained, **options
        )
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            "MODEL.BACKBONE.PRETRAINED",
            found=f"True, but no ImageNet weights of {name} ({type(error).__name__}: {text})",
            expected="published weights that fit MODEL.BACKBONE.TIMM_OPTIONS, in the Hugging Face cache or "
            "to be had over the network",
            mend="download them on a connected machine and set MODEL.BACKBONE.WEIGHTS to the file, or train "
            "from scratch with MODEL.BACKBONE.PRETRAINED False",
        ) from error


def _level_indices(name: str, options: dict[str, Any]) -> tuple[int, ...]:
    """Which of the model's feature maps have the strides of `TimmBackbone`."""
    try:
        levels = timm.create_model(name, features_only=True, **options).feature_info
    except (
        TypeError,
        ValueError,
        AssertionError,
        LookupError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise ConfigError(
            "MODEL.BACKBONE.TIMM_OPTIONS",
            found=f"{options} ({error})",
            expected=f"arguments of timm's {name}, which must support features_only",
            mend="correct the options, or choose another MODEL.BACKBONE.TIMM_NAME",
        ) from error
    index_of = dict(zip(levels.reduction(), levels.out_indices, strict=True))
    if not index_of.keys() >= set(TimmBackbone.STRIDES):
        raise ConfigError(
            "MODEL.BACKBONE.TIMM_NAME",
            found=f"{name!r}, whose maps have the strides {sorted(index_of)}",
            expected=f"a model with maps at the strides {TimmBackbone.STRIDES}",
            mend="choose a convolutional network, such as dla34 or resnet18",
        )
    return tuple(index_of[stride] for stride in TimmBackbone.STRIDES)


def _load_body_weights(body: torch.nn.Module, name: str, path: str) -> None:
    if not Path(path).is_file():
        raise CheckpointError(
            path,
            found="no such file",
            expected=f"timm weights of {name}",
            mend="check MODEL.BACKBONE.WEIGHTS",
        )
    try:
        state = timm.models.load_state_dict(path, use_ema=False, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            path,
            found=f"a file that cannot be read as tensors ({type(error).__name__})",
            expected=f"a .pth or .safetensors file with the weights of {name}",
            mend="save the weights with torch.save(model.state_dict(), …), without pickled code",
        ) from error
    state = {_name_in_body(key, body): value for key, value in state.items()}
    missing = [
        key
        for key, value in body.state_dict().items()
        if getattr(state.get(key), "shape", None) != value.shape
    ]
    if missing:
        raise CheckpointError(
            path,
            found=f"{len(missing)} missing or differently shaped entries, such as {missing[0]}",
            expected=f"the weights of timm's {name}",
            mend="give a file of the same model as MODEL.BACKBONE.TIMM_NAME",
        )
    body.load_state_dict({key: state[key] for key in body.state_dict()})


def _name_in_body(key: str, body: torch.nn.Module) -> str:
    """Name of a model's entry in what timm makes of it for features, such as `stages_0.x` of `stages.0.x`."""
    children = dict(body.named_children())
    parts = key.split(".")
    for count in range(1, len(parts)):
        if (child := "_".join(parts[:count])) in children:
            return ".".join([child, *parts[count:]])
    return key


def timm_arguments(cfg) -> dict[str, Any]:
    """Arguments of :class:`TimmBackbone` in MODEL.BACKBONE."""
    backbone = cfg.MODEL.BACKBONE
    return {
        "name": backbone.TIMM_NAME,
        "pretrained": backbone.PRETRAINED,
        "weights": backbone.WEIGHTS,
        "options": {k: v for k, v in backbone.TIMM_OPTIONS.items() if v is not None},
    }


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape: ShapeSpec) -> TimmBackbone:
    """Backbone of MODEL.BACKBONE; `input_shape` is RGB by construction."""
    return TimmBackbone(**timm_arguments(cfg))
