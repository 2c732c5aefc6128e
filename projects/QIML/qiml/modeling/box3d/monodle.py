"""MonoDLE's 3D box head: everything is regressed at the projected 3D centre.

    ┌ heatmap    Conv3×3 ─ ReLU ─ Conv1×1 → classes        every cell
    ├ offset_2d                           → 2D-box centre − cell          ┐
    ├ size_2d                             → 2D-box width, height          │
    ├ offset_3d                           → projected centre − cell       │ only at objects:
    ├ depth                               → inverse-sigmoid z, log σ      │ true cells in training,
    ├ size_3d                             → h, w, l in metres             │ heat-map peaks at inference
    └ heading                             → 12 bins, 12 residuals (alpha) ┘

Source: Ma et al., Delving into Localization Errors for Monocular 3D Object Detection (CVPR 2021);
official code `lib/models/centernet3d.py`, `lib/losses/centernet_loss.py`, `lib/helpers/decode_helper.py`.
"""

import torch
from detectron2.structures import Instances
from torch import Tensor

from qiml.losses import (
    dimension_aware_l1_loss,
    heading_loss,
    heatmap_focal_loss,
    laplacian_uncertainty_loss,
)
from qiml.losses.heading import NUM_BINS, decode_heading
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d.build import BOX3D_HEAD_REGISTRY
from qiml.modeling.box3d.centre_head import CentreHead, CentrePredictions, box2d_losses
from qiml.modeling.decode import detections_at_peaks, find_peaks, inverse_sigmoid_depth
from qiml.modeling.sampling import gather_windows, hidden_at_windows
from qiml.modeling.targets import ObjectTargets, render_heatmap
from qiml.structures.boxes3d import Boxes3D, alpha_to_rotation_y
from qiml.structures.camera import Camera

REGRESSION_CHANNELS = {
    "offset_2d": 2,
    "size_2d": 2,
    "depth": 2,
    "offset_3d": 2,
    "size_3d": 3,
    "heading": 2 * NUM_BINS,
}


@BOX3D_HEAD_REGISTRY.register()
class MonoDLEHead(CentreHead):
    """MonoDLE's head; the threshold is the heat map's, before the depth confidence is multiplied in."""

    regression_channels = REGRESSION_CHANNELS
    # Won over the neck in every seed, which is known of no other head: docs/results.md.
    auto_descriptor = "depth"

    def losses(self, predictions: CentrePredictions, targets: ObjectTargets) -> dict[str, Tensor]:
        """Seven terms of weight 1; depth, offset_3d and size_3d only where `targets.has_3d`."""
        heatmap = render_heatmap(targets, self.num_classes)
        at_objects = self.regress(predictions.features, targets.image_index, targets.cells)
        regression = self.regression_losses(at_objects, targets)
        return {"loss_heatmap": heatmap_focal_loss(predictions.heatmap, heatmap), **regression}

    def regression_losses(
        self, at_objects: dict[str, Tensor], targets: ObjectTargets
    ) -> dict[str, Tensor]:
        """The six terms read at objects.

        Args:
            at_objects: {name: (M, channels)} of :meth:`regress` at `targets.cells`.
            targets: M objects.
        """
        supervised = targets.supervised
        offset_3d = targets.projected_centres - targets.cells
        depth, log_sigma = at_objects["depth"][supervised].unbind(dim=1)
        return {
            **box2d_losses(at_objects, targets),
            "loss_heading": heading_loss(at_objects["heading"], targets.alpha),
            "loss_offset_3d": global_mean((at_objects["offset_3d"] - offset_3d)[supervised].abs()),
            "loss_depth": laplacian_uncertainty_loss(
                inverse_sigmoid_depth(depth), targets.depth[supervised], log_sigma
            ),
            "loss_size_3d": dimension_aware_l1_loss(
                at_objects["size_3d"][supervised], targets.dimensions[supervised]
            ),
        }

    def depth_descriptors(self, predictions: CentrePredictions, targets: ObjectTargets) -> Tensor:
        """(M, hidden) float32, hidden layer of the depth branch at the true cells."""
        windows = gather_windows(predictions.features, targets.image_index, targets.cells, size=3)
        return hidden_at_windows([self.depth[0]], windows).float()

    def inference(
        self,
        predictions: CentrePredictions,
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
            pred_depth_sigma (metres, e^s), pred_alpha; best heat-map score first.
        """
        peaks = find_peaks(predictions.heatmap, self.top_k)
        at_peaks = self.regress(predictions.features, peaks.image_index, peaks.cells)
        depth, log_sigma = at_peaks["depth"].unbind(dim=1)
        depth = inverse_sigmoid_depth(depth)
        centres = (peaks.cells + at_peaks["offset_3d"]) * self.stride
        camera = Camera(cameras.projection[peaks.image_index].to(centres))
        position = camera.back_project(centres[:, None], depth[:, None]).squeeze(1)
        alpha = decode_heading(at_peaks["heading"])
        yaw = alpha_to_rotation_y(alpha, camera.ray_angle(centres[:, :1]).squeeze(1))
        boxes3d = torch.cat([position, at_peaks["size_3d"], yaw[:, None]], dim=1)
        return detections_at_peaks(
            peaks,
            at_peaks,
            Boxes3D(boxes3d),
            alpha=alpha,
            depth_sigma=log_sigma.exp(),
            scores=peaks.scores * torch.exp(-log_sigma),
            kept=peaks.scores >= self.score_threshold,
            stride=self.stride,
            affines=affines,
            image_sizes=image_sizes,
        )
