"""The detector and its parts; importing this package registers them with Detectron2."""

from qiml.modeling.backbone import TimmBackbone, build_timm_backbone
from qiml.modeling.box3d import BOX3D_HEAD_REGISTRY, MonoConHead, MonoDLEHead
from qiml.modeling.detector import MonocularDetector3D
from qiml.modeling.steerable_dla import SteerableDLA

__all__ = [
    "BOX3D_HEAD_REGISTRY",
    "MonoConHead",
    "MonoDLEHead",
    "MonocularDetector3D",
    "SteerableDLA",
    "TimmBackbone",
    "build_timm_backbone",
]
