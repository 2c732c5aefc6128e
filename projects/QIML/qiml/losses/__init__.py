"""Training losses: plain PyTorch, usable without the rest of the project."""

from qiml.losses.contrastive import OrdinalTripletLoss, RankNContrastLoss
from qiml.losses.dimension import dimension_aware_l1_loss
from qiml.losses.focal import heatmap_focal_loss
from qiml.losses.heading import heading_loss
from qiml.losses.laplacian import laplacian_uncertainty_loss
from qiml.losses.quasi_isometric import QuasiIsometricLoss

__all__ = [
    "OrdinalTripletLoss",
    "QuasiIsometricLoss",
    "RankNContrastLoss",
    "dimension_aware_l1_loss",
    "heading_loss",
    "heatmap_focal_loss",
    "laplacian_uncertainty_loss",
]
