"""A trained detector, without what only its training needed."""

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from torch import nn

import qiml.modeling  # noqa: F401  registers the detector
from qiml.engine.checkpoint import DetectorCheckpointer
from qiml.engine.ema import load_average
from qiml.errors import ConfigError
from qiml.modeling.detector import MonocularDetector3D


def build_detector(cfg) -> nn.Module:
    """The model of a config, with initial weights.

    Raises:
        ConfigError: a part that is not registered, or options that do not fit.
    """
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if name not in registry:
            raise ConfigError(
                key,
                found=repr(name),
                expected="a registered name, such as MonocularDetector3D or build_timm_backbone",
                mend="correct it, or import the module that registers yours",
            )
    return build_model(cfg)


def switch_off_auxiliary_losses(cfg) -> None:
    """Detections and descriptors do not depend on the auxiliary parts: do not build them."""
    cfg.MODEL.OBJECT_DEPTH.ENABLED = False
    cfg.MODEL.QUASI_ISOMETRIC.ENABLED = False
    cfg.MODEL.CONTRASTIVE.NAME = ""


def load_trained_model(cfg, weights: str) -> MonocularDetector3D:
    """The detector of a checkpoint, with the averaged weights where MODEL_EMA kept them.

    Args:
        cfg: of the training.
        weights: the checkpoint.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    switch_off_auxiliary_losses(cfg)
    cfg.MODEL.BACKBONE.PRETRAINED, cfg.MODEL.BACKBONE.WEIGHTS = False, ""
    model = build_detector(cfg)
    checkpoint = DetectorCheckpointer(model).load(weights)
    if cfg.MODEL_EMA.ENABLED:
        load_average(model, checkpoint)
    return model
