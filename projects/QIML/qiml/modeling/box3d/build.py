"""Registry of 3D box heads."""

import copy

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

from qiml.errors import ConfigError

BOX3D_HEAD_REGISTRY = Registry("BOX3D_HEAD")
BOX3D_HEAD_REGISTRY.__doc__ = """
Heads that turn the neck's feature map into 3D boxes, built as ``Head(cfg, input_shape)``. A head implements

- ``forward(features (B, C, H, W)) -> predictions``, a dataclass of its own,
- ``losses(predictions, targets: ObjectTargets) -> dict[str, Tensor]``,
- ``inference(predictions, cameras, affines, image_sizes) -> list[Instances]``,

and, where it has one,

- ``roi_descriptors(predictions, targets: ObjectTargets) -> (M, C)``: the features its second stage pools in
  each object's 2D box, averaged, for MODEL.QUASI_ISOMETRIC.DESCRIPTOR "roi",
- ``depth_descriptors(predictions, targets: ObjectTargets) -> (M, C)``: the hidden layer that its depth is
  read from, for "depth",
- ``auto_descriptor``: which of them "auto" stands for, where it won over "neck" on fresh seeds,
- ``crop_depth``: the INPUT.AUGMENTATION.CROP_DEPTH that suits it, beside "ignore": "metric" where it knows
  what was cropped, as by measuring heights in the original image, else "virtual",
- ``task_graph``: {name of a loss: names of those it builds on}, for SOLVER.TASK_LEARNING,
- ``auxiliary``, a submodule of what only training needs: see :func:`head_for_inference`.
"""


def build_box3d_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Head named by MODEL.BOX3D_HEAD.NAME, on a map of `input_shape` (channels and stride)."""
    return head_class(cfg)(cfg, input_shape)


def head_class(cfg) -> type[nn.Module]:
    """What MODEL.BOX3D_HEAD.NAME names.

    Raises:
        ConfigError: no such head is registered.
    """
    name = cfg.MODEL.BOX3D_HEAD.NAME
    if name not in BOX3D_HEAD_REGISTRY:
        raise ConfigError(
            "MODEL.BOX3D_HEAD.NAME",
            found=repr(name),
            expected=f"one of {sorted(key for key, _ in BOX3D_HEAD_REGISTRY)}",
            mend="use a registered head, or import the module that registers yours",
        )
    return BOX3D_HEAD_REGISTRY.get(name)


def head_for_inference(head: nn.Module) -> nn.Module:
    """`head` without its ``auxiliary`` part, sharing all the rest; `head` itself where it has none."""
    if getattr(head, "auxiliary", None) is None:
        return head
    slim = copy.copy(head)
    slim._modules = {**head._modules, "auxiliary": None}
    return slim
