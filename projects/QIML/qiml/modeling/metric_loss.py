"""The metric loss on object descriptors that a config asks for."""

from qiml.losses import OrdinalTripletLoss, QuasiIsometricLoss, RankNContrastLoss
from qiml.losses.metric import MetricLoss


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
            depth_space=qi.DEPTH_SPACE,
            gather=gather,
            learn_scale=qi.LEARN_SCALE,
        )
    common = {"weight": contrastive.WEIGHT, "gather": gather}
    if contrastive.NAME in ("supcr", "rank_n_contrast"):  # two names of one loss
        return RankNContrastLoss(contrastive.TEMPERATURE, **common)
    if contrastive.NAME == "triplet":
        return OrdinalTripletLoss(contrastive.MARGIN, contrastive.GAP, **common)
    return None
