"""MonoCon's 3D box head: regression at the 2D box's centre, and auxiliary contexts in training.

    ┌ heatmap     Conv3×3 ─ attentive norm ─ ReLU ─ Conv1×1 → classes     every cell
    ├ offset_2d                                     → 2D-box centre − cell         ┐
    ├ size_2d                                       → 2D-box width, height         │
    ├ offset_3d                                     → projected 3D centre − cell   │ Conv1×1 only at
    ├ depth                                         → inverse-sigmoid z, log σ     │ objects
    ├ size_3d                                       → h, w, l in metres            │
    ├ heading                                       → 12 bins, 12 residuals        ┘
    └ auxiliary, in training alone:
      corners            Conv1×1 on offset_3d's hidden layer → projected corners − cell, at objects
      keypoint_heatmap   a branch of its own → corners and 3D centre, every cell
      keypoint_offset    a branch of its own → key point − its cell, at key points

The norm looks at the whole map, so that hidden layers are computed everywhere.
Source: Liu, Xue & Wu, Learning Auxiliary Monocular Contexts Helps Monocular 3D Object Detection (AAAI 2022);
code `monocon/mmdet3d/models/dense_heads/monocon_head.py` and, for what the two differ in, its PyTorch-only
version 2gunsu/monocon-pytorch `model/dense_heads/monocon_heads.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.structures import Instances
from torch import Tensor, nn

from qiml.losses import (
    dimension_aware_l1_loss,
    heatmap_focal_loss,
    laplacian_uncertainty_loss,
)
from qiml.losses.heading import NUM_BINS, decode_heading, encode_heading
from qiml.losses.reduction import global_mean, global_sum_ratio
from qiml.modeling.box3d.build import BOX3D_HEAD_REGISTRY
from qiml.modeling.box3d.centre_head import HeatmapHead
from qiml.modeling.box3d.monocon_targets import (
    NUM_CORNERS,
    NUM_KEYPOINTS,
    MonoConTargets,
    flatten_labels,
)
from qiml.modeling.branches import attentive_branch, attentive_heatmap_branch
from qiml.modeling.decode import detections_at_peaks, find_peaks, inverse_sigmoid_depth
from qiml.modeling.sampling import gather_windows, read_out
from qiml.modeling.targets import ObjectTargets
from qiml.structures.boxes3d import Boxes3D, alpha_to_rotation_y
from qiml.structures.camera import Camera

REGRESSION_CHANNELS = {
    "offset_2d": 2,
    "size_2d": 2,
    "offset_3d": 2,
    "depth": 2,
    "size_3d": 3,
    "heading": 2 * NUM_BINS,
}
DEPTH_EPS = 1e-12
MIN_SIZE = 0.1
"""Metres; least predicted side that the size loss divides by: an untrained head predicts 0."""


@dataclass(frozen=True)
class MonoConPredictions:
    """What the head computes everywhere; the last layers of regression wait for their cells.

    Attributes:
        heatmap: (B, classes, H, W) logits.
        hidden: {branch: (B, hidden, H, W)}.
        keypoint_heatmap: (B, 9, H, W) logits in training, else None.
    """

    heatmap: Tensor
    hidden: dict[str, Tensor]
    keypoint_heatmap: Tensor | None


@BOX3D_HEAD_REGISTRY.register()
class MonoConHead(HeatmapHead):
    """MonoCon's head.

    The threshold is that of the final score, heat-map probability times depth confidence.

    Args:
        in_channels, hidden_channels, base: as :class:`HeatmapHead`.
    """

    regression_channels = REGRESSION_CHANNELS
    make_branch = staticmethod(attentive_branch)
    make_heatmap_branch = staticmethod(attentive_heatmap_branch)

    @configurable
    def __init__(self, in_channels: int, *, hidden_channels: int, **base):
        super().__init__(in_channels, hidden_channels=hidden_channels, **base)
        corners = nn.Conv2d(hidden_channels, 2 * NUM_CORNERS, 1)
        nn.init.normal_(corners.weight, std=0.001)
        nn.init.zeros_(corners.bias)
        # Only training needs these: see head_for_inference.
        self.auxiliary = nn.ModuleDict(
            {
                "corners": corners,
                "keypoint_heatmap": attentive_heatmap_branch(
                    in_channels, hidden_channels, NUM_KEYPOINTS
                ),
                "keypoint_offset": attentive_branch(in_channels, hidden_channels, 2),
            }
        )

    def forward(self, features: Tensor) -> MonoConPredictions:
        """Neck output (B, C, H, W) to predictions; the auxiliary ones in training mode alone."""
        hidden = {name: self.get_submodule(name)[:-1](features) for name in REGRESSION_CHANNELS}
        keypoint_heatmap = None
        if self.training:
            hidden["keypoint_offset"] = self.auxiliary["keypoint_offset"][:-1](features)
            keypoint_heatmap = self.auxiliary["keypoint_heatmap"](features)
        return MonoConPredictions(self.heatmap(features), hidden, keypoint_heatmap)

    def regress(
        self, predictions: MonoConPredictions, image_index: Tensor, cells: Tensor
    ) -> dict[str, Tensor]:
        """Regression branches at M cells: {name: (M, channels)} in float32."""
        return {
            name: _read(predictions.hidden[name], self.get_submodule(name)[-1], image_index, cells)
            for name in REGRESSION_CHANNELS
        }

    def losses(self, predictions: MonoConPredictions, targets: ObjectTargets) -> dict[str, Tensor]:
        """Ten terms, of weight 1 but for size_2d's 0.1; what needs 3D only where objects have it.

        Args:
            predictions: in training mode.
            targets: whose `instances` are read: the cells here are those of the 2D boxes' centres.
        """
        objects = flatten_labels(targets.instances, self.stride, targets.map_size)
        objects = objects.to(predictions.heatmap.device)
        at_objects = self.regress(predictions, objects.image_index, objects.cells)
        return {
            "loss_heatmap": heatmap_focal_loss(
                predictions.heatmap, objects.render_heatmap(self.num_classes)
            ),
            **self.regression_losses(at_objects, objects),
            **self.auxiliary_losses(
                predictions.keypoint_heatmap,
                self.regress_keypoints(predictions, objects),
                self.regress_keypoint_offsets(predictions, objects),
                objects,
            ),
        }

    def regress_keypoints(self, predictions: MonoConPredictions, objects: MonoConTargets) -> Tensor:
        """(M, 9, 2) key points relative to the objects' cells."""
        hidden, at = predictions.hidden["offset_3d"], (objects.image_index, objects.cells)
        corners = _read(hidden, self.auxiliary["corners"], *at)
        centre = _read(hidden, self.offset_3d[-1], *at)
        return torch.cat([corners, centre], dim=1).unflatten(1, (NUM_KEYPOINTS, 2))

    def regress_keypoint_offsets(
        self, predictions: MonoConPredictions, objects: MonoConTargets
    ) -> Tensor:
        """(M, 9, 2) key points relative to their own cells."""
        offsets = _read(
            predictions.hidden["keypoint_offset"],
            self.auxiliary["keypoint_offset"][-1],
            objects.image_index.repeat_interleave(NUM_KEYPOINTS),
            objects.keypoint_cells.flatten(0, 1),
        )
        return offsets.unflatten(0, (len(objects), NUM_KEYPOINTS))

    def regression_losses(
        self, at_objects: dict[str, Tensor], objects: MonoConTargets
    ) -> dict[str, Tensor]:
        """The six terms read at objects, but for the key points.

        Args:
            at_objects: {name: (M, channels)} of :meth:`regress` at `objects.cells`.
            objects: M objects.
        """
        supervised = objects.supervised
        depth, log_sigma = at_objects["depth"][supervised].unbind(dim=1)
        size_3d = at_objects["size_3d"][supervised]
        logits, residuals = at_objects["heading"].split(NUM_BINS, dim=1)
        bins, residual = encode_heading(objects.alpha)
        bin_loss = F.binary_cross_entropy_with_logits(
            logits, F.one_hot(bins, NUM_BINS).to(logits), reduction="none"
        )
        return {
            "loss_offset_2d": global_mean(
                (at_objects["offset_2d"] - (objects.centres - objects.cells)).abs()
            ),
            "loss_size_2d": 0.1 * global_mean((at_objects["size_2d"] - objects.sizes).abs()),
            "loss_heading_bin": global_mean(bin_loss),
            "loss_heading_residual": global_mean(
                (residuals.gather(1, bins[:, None]).squeeze(1) - residual).abs()
            ),
            "loss_depth": laplacian_uncertainty_loss(
                inverse_sigmoid_depth(depth, DEPTH_EPS), objects.depth[supervised], log_sigma
            ),
            "loss_size_3d": dimension_aware_l1_loss(
                size_3d, objects.dimensions[supervised], relative_to=size_3d.clamp(min=MIN_SIZE)
            ),
        }

    def auxiliary_losses(
        self,
        keypoint_heatmap: Tensor,
        keypoints: Tensor,
        keypoint_offsets: Tensor,
        objects: MonoConTargets,
    ) -> dict[str, Tensor]:
        """The three terms of key points.

        Args:
            keypoint_heatmap: (B, 9, H, W) logits.
            keypoints: (M, 9, 2) of :meth:`regress_keypoints`.
            keypoint_offsets: (M, 9, 2) of :meth:`regress_keypoint_offsets`.
            objects: M objects.
        """
        expected = objects.keypoints - objects.cells[:, None]
        # As in the PyTorch-only version, key points off the map pull the offset of cell (0, 0) to 0; but not
        # those of objects without 3D supervision, which it does not have.
        error = (keypoint_offsets - objects.keypoint_offsets).abs() * objects.has_3d[:, None, None]
        return {
            "loss_keypoints": global_mean(
                (keypoints - expected).abs(), objects.keypoint_mask[..., None].expand_as(keypoints)
            ),
            "loss_keypoint_heatmap": heatmap_focal_loss(
                keypoint_heatmap, objects.render_keypoint_heatmap()
            ),
            "loss_keypoint_offset": global_sum_ratio(
                error.sum(), 2 * objects.keypoint_on_map.sum()
            ),
        }

    def depth_descriptors(self, predictions: MonoConPredictions, targets: ObjectTargets) -> Tensor:
        """(M, hidden) float32, hidden layer of the depth branch where that is read: in the boxes' middle."""
        height, width = targets.map_size
        middle = (targets.boxes2d[:, :2] + targets.boxes2d[:, 2:]) / 2
        x, y = middle.long().unbind(dim=1)
        cells = torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], dim=1)
        hidden = predictions.hidden["depth"]
        return gather_windows(hidden, targets.image_index, cells, size=1).flatten(1).float()

    def inference(
        self,
        predictions: MonoConPredictions,
        cameras: Camera,
        affines: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of every image, in pixels of the original image and metres of its camera frame.

        Args:
            predictions: of B images.
            cameras: (B, 3, 4) cameras of the network's *input* images.
            affines: (B, 2, 3) original pixels → input pixels.
            image_sizes: (height, width) of the original images.

        Returns:
            Per image: pred_boxes, scores (heat · e^(−s)), pred_classes, pred_boxes3d,
            pred_depth_sigma (metres, e^s), pred_alpha (of the decoded box); best heat-map score first.
        """
        peaks = find_peaks(predictions.heatmap, self.top_k)
        at_peaks = self.regress(predictions, peaks.image_index, peaks.cells)
        depth, log_sigma = at_peaks["depth"].unbind(dim=1)
        centres = (peaks.cells + at_peaks["offset_3d"]) * self.stride
        camera = Camera(cameras.projection[peaks.image_index].to(centres))
        # The depth is what the projection divides by. Less its offset it is z: the whole matrix is inverted.
        z = inverse_sigmoid_depth(depth, DEPTH_EPS) - camera.projection[:, 2, 3]
        position = camera.back_project(centres[:, None], z[:, None]).squeeze(1)
        yaw = alpha_to_rotation_y(
            decode_heading(at_peaks["heading"]), camera.ray_angle(centres[:, :1]).squeeze(1)
        )
        boxes3d = Boxes3D(torch.cat([position, at_peaks["size_3d"], yaw[:, None]], dim=1))
        scores = peaks.scores * torch.exp(-log_sigma)
        return detections_at_peaks(
            peaks,
            at_peaks,
            boxes3d,
            alpha=boxes3d.alpha,
            depth_sigma=log_sigma.exp(),
            scores=scores,
            kept=scores >= self.score_threshold,
            stride=self.stride,
            affines=affines,
            image_sizes=image_sizes,
        )


def _read(hidden: Tensor, readout: nn.Conv2d, image_index: Tensor, cells: Tensor) -> Tensor:
    """A 1×1 convolution at cells alone: (M, channels) in float32."""
    return read_out(gather_windows(hidden, image_index, cells, size=1).flatten(1), readout)
