"""DEVIANT's backbone: a DLA whose features follow when an object comes nearer.

    image ─ base_layer ─ level0 ─ level1 ─ level2 ─ … ─ level5     each on all scales at once; on goes the
                                                                   largest answer of the scales

An object at half the distance is seen at twice the size. With steerable convolutions its features are, as far
as the scales reach, those of the farther object at twice the size; others have to learn that.

Source: Kumar et al., DEVIANT: Depth EquiVarIAnt NeTwork for Monocular 3D Object Detection (ECCV 2022);
official code `lib/projective/projective_utils.py` ("max_scale_after_dla34_layer").
"""

import functools
from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.models.dla import DlaTree
from torch import Tensor, nn

from qiml.errors import ConfigError
from qiml.modeling.backbone import TimmBackbone, timm_arguments
from qiml.modeling.steerable_conv import SteerableConv2d, lift, max_over_scales

LIFTING_LAYERS = ("base_layer", "level0", "level1")
"""Where the first convolution reads a map without scales; trees get theirs lifted."""


@BACKBONE_REGISTRY.register()
class SteerableDLA(TimmBackbone):
    """A DLA of timm with steerable convolutions, and a name for every weight as there.

    Args:
        name: dla34, or another DLA of timm.
        scales: see :class:`SteerableConv2d`.
        official: convolutions, and the use of ordinary weights, as in DEVIANT's code; see
            :func:`steer_state`.
        timm: further arguments of :class:`TimmBackbone`; its weights are ordinary ones, and are converted.

    Raises:
        ConfigError: not a DLA, or the scales do not rise.
    """

    @configurable
    def __init__(self, name: str, *, scales: Sequence[float], official: bool = False, **timm):
        _check(name, scales)
        super().__init__(name, **timm)
        self.num_scales = len(scales)
        ordinary = self.body.state_dict()
        for layer_name, layer in self.body.items():
            _replace_convolutions(
                layer, scales=scales, official=official, lifting=layer_name in LIFTING_LAYERS
            )
        self.body.load_state_dict(steer_state(ordinary, self.body))

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        steerable = cfg.MODEL.BACKBONE.STEERABLE
        return {
            **timm_arguments(cfg),
            "scales": tuple(steerable.SCALES),
            "official": steerable.OFFICIAL,
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised image to {"stride4": (B, C4, H/4, W/4), …}."""
        x, maps = image, []
        for layer in self.body.values():
            x = self._tree(layer, x) if isinstance(layer, DlaTree) else self._lifting(layer, x)
            maps.append(x)
        return dict(zip(self._out_features, maps[-len(self._out_features) :], strict=True))

    def _lifting(self, layer: nn.Sequential, x: Tensor) -> Tensor:
        """Convolution, norm and ReLU on all scales of one map, and their largest answer."""
        if self.training:  # the norm's statistics are those of all scales
            return max_over_scales(layer(x), self.num_scales)
        # One after the other: these maps are large.
        convolution, rest = layer[0], layer[1:]
        answers = (rest(convolution.answer(x, kernel)) for kernel in convolution.kernels())
        return functools.reduce(torch.maximum, answers)

    def _tree(self, tree: DlaTree, x: Tensor, children: Sequence[Tensor] = ()) -> Tensor:
        """What timm's tree does, all scales at once in its innermost trees and the largest after each."""
        if tree.levels == 1:
            lifted, *lifted_children = (lift(y, self.num_scales) for y in (x, *children))
            return max_over_scales(tree(lifted, None, lifted_children), self.num_scales)
        children = [*children, tree.downsample(x)] if tree.level_root else [*children]
        first = self._tree(tree.tree1, x)
        return self._tree(tree.tree2, first, [*children, first])


def _check(name: str, scales: Sequence[float]) -> None:
    if not name.startswith("dla"):
        raise ConfigError(
            "MODEL.BACKBONE.TIMM_NAME",
            found=f"{name!r} with MODEL.BACKBONE.NAME SteerableDLA",
            expected="a DLA of timm",
            mend="set it to dla34, or MODEL.BACKBONE.NAME to build_timm_backbone",
        )
    if not scales or scales[0] <= 0 or list(scales) != sorted(set(scales)):
        raise ConfigError(
            "MODEL.BACKBONE.STEERABLE.SCALES",
            found=str(tuple(scales)),
            expected="positive widths in pixels, smallest first",
            mend="correct the values; DEVIANT's are (0.83, 0.9, 1.0)",
        )


def _replace_convolutions(module: nn.Module, **steerable) -> None:
    """Steerable ones for all whose kernels are larger than a pixel, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.kernel_size[0] > 1:
            convolution = SteerableConv2d(
                child.in_channels,
                child.out_channels,
                child.kernel_size[0],
                stride=child.stride[0],
                groups=child.groups,
                **steerable,
            )
            setattr(module, name, convolution)
        else:
            _replace_convolutions(child, **steerable)


def steer_state(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Weights of an ordinary network as those of a steerable one with the same names.

    Args:
        state: of the ordinary network. May lack entries, and have others: these stay as they are, as do
            kernels of another shape.
        module: the steerable network. If its convolutions are official ones, norms lose their weights and
            biases, as in DEVIANT's code.
    """
    layers = {name: layer for name, layer in module.named_modules() if f"{name}.weight" in state}
    steered, official = dict(state), False
    for name, layer in layers.items():
        kernel = state[f"{name}.weight"]
        if isinstance(layer, SteerableConv2d) and kernel.shape == layer.ordinary_shape:
            steered[f"{name}.weight"], steered[f"{name}.basis"] = layer.fit(kernel), layer.basis
            official |= layer.official
    for name, layer in layers.items():
        if official and isinstance(layer, nn.BatchNorm2d):
            steered[f"{name}.weight"] = torch.ones_like(state[f"{name}.weight"])
            steered[f"{name}.bias"] = torch.zeros_like(state[f"{name}.bias"])
    return steered
