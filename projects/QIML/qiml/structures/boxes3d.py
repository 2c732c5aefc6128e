"""Oriented 3D boxes in the camera frame, and the angles that describe their heading."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qiml.evaluation.rotated_iou import rotated_iou_3d
from qiml.structures.camera import Camera

# Pairs of corner indices (see Boxes3D.corners): bottom face, top face, then the four posts.
BOX_EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0),
    (4, 5), (5, 6), (6, 7), (7, 4),
    (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip
NEAR_PLANE = 0.1  # metres


class Boxes3D:
    """N oriented boxes; a Detectron2 ``Instances`` field.

    Camera frame: x right, y down, z forward, in metres. Yaw turns about +y: at 0 the front looks
    along +x, at −π/2 along +z (away from the camera).

    Args:
        tensor: (N, 7) of x, y, z of the *geometric* centre, h, w, l, yaw in radians. A list becomes
            float32, as integers do; floating-point tensors and arrays keep their type.

    Raises:
        ValueError: if the shape is not (N, 7); an empty list or tensor gives no boxes.
    """

    def __init__(self, tensor: Tensor | Sequence):
        tensor = torch.as_tensor(tensor)
        if not tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 7)
        if tensor.dim() != 2 or tensor.shape[1] != 7:
            raise ValueError(f"Boxes3D needs a tensor of shape (N, 7), got {tuple(tensor.shape)}")
        self.tensor = tensor

    @classmethod
    def from_kitti(
        cls,
        location: Tensor | np.ndarray,
        dimensions: Tensor | np.ndarray,
        rotation_y: Tensor | np.ndarray,
    ) -> "Boxes3D":
        """Boxes from KITTI's columns, whose location is the centre of the bottom face.

        Args:
            location: (N, 3) x, y, z of the bottom face's centre.
            dimensions: (N, 3) h, w, l.
            rotation_y: (N,) radians.
        """
        columns = (location, dimensions, rotation_y)
        location, dimensions, rotation_y = map(torch.as_tensor, columns)
        x, bottom, z = location.unbind(-1)
        centre = torch.stack([x, bottom - dimensions[:, 0] / 2, z], dim=-1)
        return cls(torch.cat([centre, dimensions, wrap_angle(rotation_y)[:, None]], dim=-1))

    def to_kitti(self) -> tuple[Tensor, Tensor, Tensor]:
        """Location (N, 3), dimensions (N, 3), rotation_y (N,); inverts :meth:`from_kitti`."""
        x, y, z = self.centres.unbind(-1)
        location = torch.stack([x, y + self.dimensions[:, 0] / 2, z], dim=-1)
        return location, self.dimensions, self.yaw

    @staticmethod
    def cat(boxes: Sequence["Boxes3D"]) -> "Boxes3D":
        """Join lists of boxes into one; no list gives no boxes."""
        return Boxes3D(torch.cat([b.tensor for b in boxes]) if boxes else torch.empty(0, 7))

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: int | slice | Tensor) -> "Boxes3D":
        """Select by number, slice, mask (N,) or indices; always Boxes3D, also for one box."""
        selected = self.tensor[item]
        return Boxes3D(selected[None] if isinstance(item, int) else selected)

    def __repr__(self) -> str:
        return f"Boxes3D({self.tensor})"

    def to(self, *args, **kwargs) -> "Boxes3D":
        """The same boxes on another device or in another dtype (as :meth:`torch.Tensor.to`)."""
        return Boxes3D(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @property
    def centres(self) -> Tensor:
        """(N, 3) geometric centres."""
        return self.tensor[:, :3]

    @property
    def dimensions(self) -> Tensor:
        """(N, 3) height, width, length."""
        return self.tensor[:, 3:6]

    @property
    def yaw(self) -> Tensor:
        """(N,) rotation about +y."""
        return self.tensor[:, 6]

    @property
    def depth(self) -> Tensor:
        """(N,) z of the centres."""
        return self.tensor[:, 2]

    @property
    def alpha(self) -> Tensor:
        """(N,) observation angle, from the ray of the camera frame's origin to the centre."""
        return rotation_y_to_alpha(self.yaw, torch.atan2(self.tensor[:, 0], self.depth))

    def volume(self) -> Tensor:
        """(N,) cubic metres."""
        return self.dimensions.prod(dim=-1)

    def corners(self) -> Tensor:
        """Corner points (N, 8, 3), clockwise from front left as seen from above, bottom face first.

        ::

                   7 ─────────── 4
                  ╱│            ╱│        left and right as the driver sees them;
                 6 ─────────── 5 │        front face 0 1 5 4,
                 │ │           │ │ ──▶    bottom face 0 1 2 3,
                 │ 3 ──────────│ 0 front  top face 4 5 6 7
                 │╱            │╱         (top corner = bottom corner + 4)
                 2 ─────────── 1
        """
        # Along the length (forwards), the height (down) and the width (to the left).
        forwards = self.tensor.new_tensor([1, 1, -1, -1] * 2) / 2
        down = self.tensor.new_tensor([1] * 4 + [-1] * 4) / 2
        left = self.tensor.new_tensor([1, -1, -1, 1] * 2) / 2
        height, width, length = (size[:, None] for size in self.dimensions.unbind(-1))
        along, across = length * forwards, width * left
        sine, cosine = self.yaw.sin()[:, None], self.yaw.cos()[:, None]
        offsets = [cosine * along + sine * across, height * down, cosine * across - sine * along]
        return self.centres[:, None] + torch.stack(offsets, dim=-1)

    def project(self, camera: Camera, image_size: tuple[int, int] | None = None) -> Tensor:
        """Tight 2D boxes around the visible part of each 3D box.

        The part nearer than ``NEAR_PLANE`` is cut off before projecting, so that a box which
        reaches behind the camera gives the box of what is in front of it.

        Args:
            camera: one camera, or N of them.
            image_size: (height, width) to clamp to; None leaves the boxes unclamped.

        Returns:
            (N, 4) XYXY in pixels; zeros where the whole box is behind the near plane.
        """
        corners = self.corners()
        starts, ends = corners[:, [s for s, _ in BOX_EDGES]], corners[:, [e for _, e in BOX_EDGES]]
        starts, ends, visible = clip_segments(starts, ends)
        pixels, _ = camera.project(torch.cat([starts, ends], dim=1))
        visible = torch.cat([visible, visible], dim=1)[..., None]
        upper_left = pixels.masked_fill(~visible, math.inf).amin(dim=1)
        lower_right = pixels.masked_fill(~visible, -math.inf).amax(dim=1)
        if image_size is not None:
            limit = pixels.new_tensor([image_size[1], image_size[0]])
            upper_left = upper_left.clamp(min=0).minimum(limit)
            lower_right = lower_right.clamp(min=0).minimum(limit)
        boxes = torch.cat([upper_left, lower_right], dim=-1)
        return boxes.masked_fill(~visible.any(dim=1), 0)

    def flip(self) -> "Boxes3D":
        """The boxes of the mirrored scene, x → −x; see :meth:`Camera.flip`."""
        x, others, yaw = self.tensor.split([1, 5, 1], dim=-1)
        return Boxes3D(torch.cat([-x, others, wrap_angle(math.pi - yaw)], dim=-1))


def clip_segments(
    starts: Tensor, ends: Tensor, near: float = NEAR_PLANE
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut off what lies nearer to the camera than a plane z = near.

    Args:
        starts: (..., 3) one end of each segment, in the camera frame.
        ends: (..., 3) the other end.
        near: metres.

    Returns:
        Both ends (..., 3) after cutting, and a mask (...) of the segments of which something is
        left (ends of the others are meaningless).
    """
    start_z, end_z = starts[..., 2:], ends[..., 2:]
    # Where the plane is crossed; a segment parallel to it is never cut, so its value is not used.
    crossing = starts + (ends - starts) * ((near - start_z) / (end_z - start_z))
    visible = ((start_z >= near) | (end_z >= near))[..., 0]
    return (
        torch.where(start_z < near, crossing, starts),
        torch.where(end_z < near, crossing, ends),
        visible,
    )


def wrap_angle(angle: Tensor) -> Tensor:
    """Radians brought into [−π, π)."""
    wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    # The remainder of a tiny negative number rounds up to the full circle itself.
    return torch.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped)


def alpha_to_rotation_y(alpha: Tensor, ray_angle: Tensor) -> Tensor:
    """Yaw from the observation angle: alpha is what the image shows, yaw what the road has.

    Args:
        alpha: (...) radians.
        ray_angle: (...) radians from the optical axis to the object's viewing ray, from a pixel
            (:meth:`Camera.ray_angle`) or from a position (atan2(x, z)).

    Returns:
        (...) rotation_y in [−π, π).
    """
    return wrap_angle(alpha + ray_angle)


def rotation_y_to_alpha(rotation_y: Tensor, ray_angle: Tensor) -> Tensor:
    """The inverse of :func:`alpha_to_rotation_y`: alpha in [−π, π)."""
    return wrap_angle(rotation_y - ray_angle)


def pairwise_iou_3d(boxes_a: Boxes3D, boxes_b: Boxes3D) -> Tensor:
    """Exact intersection over union of oriented boxes; runs on the CPU, carries no gradient.

    Returns:
        (N, M) on the device of ``boxes_a``, in its dtype.
    """
    a, b = (boxes.tensor.detach().cpu().numpy() for boxes in (boxes_a, boxes_b))
    return torch.as_tensor(rotated_iou_3d(a, b)).to(boxes_a.tensor)
