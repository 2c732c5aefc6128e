"""3D box heads, one file each; importing this package registers them."""

from qiml.modeling.box3d.build import (
    BOX3D_HEAD_REGISTRY,
    build_box3d_head,
    head_class,
    head_for_inference,
)
from qiml.modeling.box3d.did_m3d import DIDM3DHead
from qiml.modeling.box3d.gupnet import GUPNetHead
from qiml.modeling.box3d.monocon import MonoConHead
from qiml.modeling.box3d.monodle import MonoDLEHead

__all__ = [
    "BOX3D_HEAD_REGISTRY",
    "DIDM3DHead",
    "GUPNetHead",
    "MonoConHead",
    "MonoDLEHead",
    "build_box3d_head",
    "head_class",
    "head_for_inference",
]
