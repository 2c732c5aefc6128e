"""The meta-architecture: backbone → neck → 3D box head, plus what only training needs."""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from qiml.errors import ConfigError
from qiml.losses.reduction import global_mean
from qiml.modeling.box3d import build_box3d_head, head_for_inference
from qiml.modeling.metric_loss import (
    DESCRIPTORS,
    build_metric_loss,
    choose_descriptor,
    has_descriptors,
)
from qiml.modeling.neck import DLAUp
from qiml.modeling.object_depth import ObjectDepthHead
from qiml.modeling.precision import configured_dtype, mixed_precision
from qiml.modeling.sampling import pooled_descriptors
from qiml.modeling.targets import ObjectTargets, flatten_objects
from qiml.structures.camera import Camera


@META_ARCH_REGISTRY.register()
class MonocularDetector3D(nn.Module):
    """A monocular 3D detector with optional depth-discriminative losses.

    Args:
        backbone: maps named by stride.
        neck: those maps to one map (B, C, H/stride, W/stride).
        box3d_head: see ``BOX3D_HEAD_REGISTRY``.
        object_depth_head: auxiliary head, or None.
        metric_loss: loss on object descriptors and their depths, or None.
        descriptor: what an object's descriptor is: "depth", the hidden layer of the head's depth branch; or
            the mean of "neck", a window of the neck's map; "roi", the features the head's second stage pools
            in the object's 2D box.
        descriptor_size: side of that window, in cells.
        across_images: whether the metric loss also compares objects of different images.
        pixel_mean, pixel_std: of RGB images in [0, 255].
        autocast_dtype: dtype of mixed precision, or None for float32 throughout.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: DLAUp,
        box3d_head: nn.Module,
        object_depth_head: ObjectDepthHead | None,
        metric_loss: nn.Module | None,
        descriptor: str,
        descriptor_size: int,
        across_images: bool,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        autocast_dtype: torch.dtype | None,
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.box3d_head = box3d_head
        self.object_depth_head = object_depth_head
        self.metric_loss = metric_loss
        self.descriptor, self.descriptor_size = descriptor, descriptor_size
        self.across_images = across_images
        self.autocast_dtype = autocast_dtype
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        model = cfg.MODEL
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
        neck = DLAUp(backbone.output_shape(), model.NECK.UPSAMPLE == "learned")
        qi = model.QUASI_ISOMETRIC
        head = build_box3d_head(cfg, ShapeSpec(channels=neck.out_channels, stride=neck.stride))
        metric_loss = build_metric_loss(cfg)
        descriptor = choose_descriptor(cfg, head)
        if metric_loss:
            _check_descriptor(descriptor, head)
        return {
            "backbone": backbone,
            "neck": neck,
            "box3d_head": head,
            "object_depth_head": ObjectDepthHead(cfg, neck.out_channels)
            if model.OBJECT_DEPTH.ENABLED
            else None,
            "metric_loss": metric_loss,
            "descriptor": descriptor,
            "descriptor_size": qi.DESCRIPTOR_SIZE,
            "across_images": qi.ACROSS_IMAGES,
            "pixel_mean": model.PIXEL_MEAN,
            "pixel_std": model.PIXEL_STD,
            "autocast_dtype": configured_dtype(cfg),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def mixed_precision(self) -> torch.autocast:
        """The context that the network and the losses run in."""
        return mixed_precision(self.device, self.autocast_dtype)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: per image: image (3, H, W) uint8 RGB of one size, camera (3, 4) of that image,
                affine (2, 3) original → input pixels, height and width of the original image; in training
                also instances (see :func:`flatten_objects`) and, where the head is to learn from it,
                dense_depth (H, W) metres.

        Returns:
            Training: {name: scalar}. Otherwise: [{"instances": Instances}] in original pixels.
        """
        with self.mixed_precision():
            features = self.extract_features(batched_inputs)
            predictions = self.box3d_head(features)
            if self.training:
                instances = [x["instances"] for x in batched_inputs]
                maps = [x["dense_depth"] for x in batched_inputs if "dense_depth" in x]
                dense_depth = torch.stack(maps) if maps else None
                return self.losses(features, predictions, instances, dense_depth)
            cameras = Camera(torch.stack([x["camera"] for x in batched_inputs]).to(self.device))
            affines = torch.stack([x["affine"] for x in batched_inputs]).to(self.device)
            image_sizes = [(x["height"], x["width"]) for x in batched_inputs]
            detections = self.box3d_head.inference(predictions, cameras, affines, image_sizes)
            return [{"instances": instances} for instances in detections]

    def extract_features(self, batched_inputs: list[dict]) -> Tensor:
        """Neck output (B, C, H/stride, W/stride) of the batch's images."""
        images = torch.stack(
            [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        )
        images = ((images - self.pixel_mean) / self.pixel_std).to(memory_format=torch.channels_last)
        return self.neck(self.backbone(images))

    def losses(
        self,
        features: Tensor,
        predictions,
        instances: list[Instances],
        dense_depth: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The head's terms, then the two auxiliary ones where they are switched on.

        Labels are few and small: they are sorted on the host, so that a GPU is not waited for.
        """
        targets = flatten_objects(instances, self.neck.stride, features.shape[-2:], dense_depth)
        targets = targets.to(self.device)
        losses = self.box3d_head.losses(predictions, targets)
        if self.object_depth_head is not None:
            painted = self.object_depth_head.paint(instances, self.neck.stride, features.shape[-2:])
            losses["loss_object_depth"] = self.object_depth_head.loss(features, painted)
        if self.metric_loss is not None:
            losses["loss_metric"] = self.descriptor_loss(features, predictions, targets)
        return losses

    def descriptor_loss(self, features: Tensor, predictions, targets: ObjectTargets) -> Tensor:
        """The metric loss on the batch's objects: of all classes and, as in the official code, all images."""
        descriptors = self.descriptors(features, predictions, targets, self.descriptor)
        depth = targets.apparent_depth[targets.supervised]
        if self.across_images:
            return self.metric_loss(descriptors, depth)
        # Objects are in the order of their images. A GPU is waited for to count them.
        images = targets.image_index[targets.supervised]
        counts = images.bincount(minlength=len(features)).tolist()
        own = zip(descriptors.split(counts), depth.split(counts), strict=True)
        return global_mean(torch.stack([self.metric_loss(*objects) for objects in own]))

    def descriptors(
        self, features: Tensor, predictions, targets: ObjectTargets, kind: str
    ) -> Tensor:
        """(M', C) of the objects with 3D supervision; for "neck" `predictions` are not read."""
        supervised = targets.supervised
        if kind == "roi":
            return self.box3d_head.roi_descriptors(predictions, targets)[supervised]
        if kind == "depth":
            return self.box3d_head.depth_descriptors(predictions, targets)[supervised]
        return pooled_descriptors(
            features,
            targets.image_index[supervised],
            targets.cells[supervised],
            self.descriptor_size,
        )

    def describe(
        self, batched_inputs: list[dict], kinds: Sequence[str] | None = None
    ) -> tuple[dict[str, Tensor], ObjectTargets]:
        """What a metric loss compares, whether or not there is one.

        Args:
            batched_inputs: as for training.
            kinds: of :attr:`descriptor_kinds`; None: the kind that the metric loss takes.

        Returns:
            By kind (M', C) float32 descriptors of the objects with 3D supervision, and all M objects.

        Raises:
            ConfigError: the head has no descriptors of such a kind.
        """
        kinds = [self.descriptor] if kinds is None else kinds
        for kind in kinds:
            _check_descriptor(kind, self.box3d_head)
        instances = [x["instances"] for x in batched_inputs]
        with self.mixed_precision():
            features = self.extract_features(batched_inputs)
            predictions = self.box3d_head(features) if set(kinds) != {"neck"} else None
            targets = flatten_objects(instances, self.neck.stride, features.shape[-2:])
            targets = targets.to(self.device)
            found = {k: self.descriptors(features, predictions, targets, k) for k in kinds}
            return {kind: descriptors.float() for kind, descriptors in found.items()}, targets

    @property
    def descriptor_kinds(self) -> list[str]:
        """Those of `DESCRIPTORS` that this detector has."""
        return [kind for kind in DESCRIPTORS if has_descriptors(self.box3d_head, kind)]

    def for_inference(self) -> "MonocularDetector3D":
        """This detector without the parts only training needs, in eval mode.

        The rest is shared, not copied: call ``train()`` on this detector to go on training it. The result's
        parameters and detections do not depend on which auxiliary losses the training used.
        """
        detector = MonocularDetector3D(
            backbone=self.backbone,
            neck=self.neck,
            box3d_head=head_for_inference(self.box3d_head),
            object_depth_head=None,
            metric_loss=None,
            descriptor=self.descriptor,
            descriptor_size=self.descriptor_size,
            across_images=self.across_images,
            pixel_mean=self.pixel_mean.flatten().tolist(),
            pixel_std=self.pixel_std.flatten().tolist(),
            autocast_dtype=self.autocast_dtype,
        )
        return detector.to(self.device).eval()


def _check_descriptor(kind: str, head: nn.Module) -> None:
    needed = {
        "roi": "a head with a second stage on regions of interest, such as GUPNetHead",
        "depth": "a head that has them of its depth branch, such as MonoDLEHead",
    }
    if not has_descriptors(head, kind):
        raise ConfigError(
            "MODEL.QUASI_ISOMETRIC.DESCRIPTOR",
            found=f"{kind!r} with MODEL.BOX3D_HEAD.NAME {type(head).__name__}",
            expected=needed[kind],
            mend="set it to 'auto' or 'neck'",
        )
