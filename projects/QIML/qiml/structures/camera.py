"""Pinhole camera with a full 3×4 projection: project, back-project, warp and flip."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera, or a batch of them, given by projection matrices.

    A point of the camera frame (x right, y down, z forward, metres) is seen at the pixel
    ``(h₀ / h₂, h₁ / h₂)`` where ``h = P [x y z 1]ᵀ``. Pixels are continuous: pixel i covers
    [i, i+1].

    KITTI's P2 has a non-zero fourth column (the offset of camera 2 from camera 0) whose last entry,
    some 3 mm, makes ``h₂`` differ from z. The KITTI devkit divides by ``h₂``, and so do we. The
    calibration class that MonoDLE and its descendants share (``kitti_utils.py``: ``rect_to_img``,
    ``img_to_rect``) divides by z, which moves near points by a few tenths of a pixel. To get its
    numbers, build the camera from a matrix with ``P[2, 3] = 0``: then both formulas agree.

    Args:
        projection: (..., 3, 4) floating point; leading dimensions broadcast with those of the
            points or pixels given to the methods.
    """

    projection: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.projection.shape)
        if shape[-2:] != (3, 4):
            raise ValueError(f"a camera needs a projection of shape (..., 3, 4), got {shape}")

    @property
    def fx(self) -> Tensor:
        """(...) horizontal focal length in pixels."""
        return self.projection[..., 0, 0]

    @property
    def fy(self) -> Tensor:
        """(...) vertical focal length in pixels."""
        return self.projection[..., 1, 1]

    @property
    def cx(self) -> Tensor:
        """(...) horizontal principal point in pixels."""
        return self.projection[..., 0, 2]

    @property
    def cy(self) -> Tensor:
        """(...) vertical principal point in pixels."""
        return self.projection[..., 1, 2]

    def to(self, *args, **kwargs) -> "Camera":
        """The same camera on another device or in another dtype (as :meth:`torch.Tensor.to`)."""
        return Camera(self.projection.to(*args, **kwargs))

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See points of the camera frame in the image.

        Args:
            points: (..., N, 3) metres. Pixels of points with z ≤ 0 are finite but meaningless:
                clip geometry at a near plane first (:func:`qiml.structures.boxes3d.clip_segments`).

        Returns:
            (..., N, 2) pixels and (..., N) depth, which is the points' z.
        """
        rotation, offset = self.projection[..., :3], self.projection[..., 3]
        homogeneous = points @ rotation.mT + offset[..., None, :]
        return homogeneous[..., :2] / homogeneous[..., 2:], points[..., 2]

    def back_project(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """Find the points seen at given pixels and depths: the exact inverse of :meth:`project`.

        Args:
            pixels: (..., N, 2).
            depth: (..., N) z in the camera frame, metres.

        Returns:
            (..., N, 3) points in metres.
        """
        # u · (P₂ [p 1]) = P₀ [p 1], the same for v: two linear equations in x and y, z being known.
        rows = self.projection[..., None, :, :]
        equations = rows[..., :2, :] - pixels[..., None] * rows[..., 2:, :]
        (a, b), (c, d) = (row.unbind(-1) for row in equations[..., :2].unbind(-2))
        right_hand_side = -(equations[..., 2] * depth[..., None] + equations[..., 3])
        e, f = right_hand_side.unbind(-1)
        determinant = a * d - b * c
        x = (d * e - b * f) / determinant
        y = (a * f - c * e) / determinant
        return torch.stack([x, y, depth.expand_as(x)], dim=-1)

    def warp(self, affine: Tensor) -> "Camera":
        """The camera whose image is this camera's image warped by an affine map.

        Args:
            affine: (..., 2, 3), maps this image's pixels to the warped image's.
        """
        return Camera(_homogeneous(affine).to(self.projection) @ self.projection)

    def flip(self, width: float) -> "Camera":
        """The camera of the mirrored scene: x → −x in the world and u → width − u in the image.

        The focal lengths stay positive, so flipped boxes (:meth:`Boxes3D.flip`) in the flipped
        image are ordinary training samples.
        """
        mirror_image = self.projection.new_tensor([[-1, 0, width], [0, 1, 0], [0, 0, 1]])
        mirror_world = self.projection.new_tensor([-1, 1, 1, 1])
        return Camera(mirror_image @ self.projection * mirror_world)

    def ray_angle(self, pixels_u: Tensor) -> Tensor:
        """Horizontal angle of the viewing ray through image columns, in (−π/2, π/2).

        Rotation_y and alpha differ by this angle; see
        :func:`qiml.structures.boxes3d.alpha_to_rotation_y`.

        Args:
            pixels_u: (..., N) columns in pixels.

        Returns:
            (..., N) radians, 0 at the principal point and positive to its right.
        """
        return torch.atan2(pixels_u - self.cx[..., None], self.fx[..., None])


def invert_affine(affine: Tensor) -> Tensor:
    """Inverse of 2×3 affine maps.

    Args:
        affine: (..., 2, 3).

    Returns:
        (..., 2, 3): its composition with ``affine`` is the identity.
    """
    linear = torch.linalg.inv(affine[..., :2])
    # Not a matrix product: autocast would round pixels to the three digits of bfloat16.
    offset = -(linear * affine[..., None, :, 2]).sum(dim=-1, keepdim=True)
    return torch.cat([linear, offset], dim=-1)


def _homogeneous(affine: Tensor) -> Tensor:
    last_row = affine.new_tensor([0, 0, 1]).expand(*affine.shape[:-2], 1, 3)
    return torch.cat([affine, last_row], dim=-2)
