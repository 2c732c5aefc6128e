"""The metric loss on object descriptors that a config asks for."""

from torch import nn

from qiml.losses import OrdinalTripletLoss, QuasiIsometricLoss, RankNContrastLoss
from qiml.losses.metric import MetricLoss

DESCRIPTORS = ("neck", "roi", "depth")


def build_metric_loss(cfg) -> MetricLoss | None:
    """By MODEL.QUASI_ISOMETRIC.ENABLED or MODEL.CONTRASTIVE.NAME; None where both are off."""
    qi, contrastive = cfg.MODEL.QUASI_ISOMETRIC, cfg.MODEL.CONTRASTIVE
    gather = qi.GATHER and qi.ACROSS_IMAGES
    if qi.ENABLED:
        return QuasiIsometricLoss(
            k=qi.K,
            b=qi.B,
            epsilon=qi.EPSILON,
            weight=qi.WEIGHT,
            temperature=qi.TEMPERATURE,
            form=qi.FORM,
            depth_space=choose_depth_space(cfg),
            gather=gather,
            learn_scale=qi.LEARN_SCALE,
        )
    common = {"weight": contrastive.WEIGHT, "gather": gather}
    if contrastive.NAME in ("supcr", "rank_n_contrast"):  # two names of one loss
        return RankNContrastLoss(contrastive.TEMPERATURE, **common)
    if contrastive.NAME == "triplet":
        return OrdinalTripletLoss(contrastive.MARGIN, contrastive.GAP, **common)
    return None


def choose_depth_space(cfg) -> str:
    """MODEL.QUASI_ISOMETRIC.DEPTH_SPACE, "auto" resolved: "metric" or "log"."""
    qi = cfg.MODEL.QUASI_ISOMETRIC
    if qi.DEPTH_SPACE != "auto":
        return qi.DEPTH_SPACE
    return "metric" if qi.FORM == "official" else "log"


def choose_descriptor(cfg, head: nn.Module | type[nn.Module]) -> str:
    """MODEL.QUASI_ISOMETRIC.DESCRIPTOR, "auto" resolved: "depth", "neck" or "roi".

    "auto" is "neck", as in the paper, but the head's own ``auto_descriptor`` with the two-sided form.
    """
    qi = cfg.MODEL.QUASI_ISOMETRIC
    if qi.DESCRIPTOR != "auto":
        return qi.DESCRIPTOR
    return "neck" if qi.FORM == "official" else getattr(head, "auto_descriptor", "neck")


def has_descriptors(head: nn.Module, kind: str) -> bool:
    """Whether a detector with this head has descriptors of a kind of `DESCRIPTORS`."""
    return kind == "neck" or hasattr(head, f"{kind}_descriptors")
