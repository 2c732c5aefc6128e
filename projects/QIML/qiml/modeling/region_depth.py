"""Depth of what 2D boxes show, from the labels alone: at a grid of points of each box, or in every cell."""

import torch
from torch import Tensor

from qiml.modeling.targets import ObjectTargets, cells_in_boxes, on_map, paint_nearest
from qiml.structures.boxes3d import Boxes3D
from qiml.structures.camera import Camera


def object_depth_in_boxes(objects: ObjectTargets, size: int) -> Tensor:
    """Object-wise depth: of the nearest object whose 2D box holds the point, that of its centre.

    As :func:`qiml.modeling.targets.paint_object_depth`, without the cells of a map in between: boxes may be
    smaller than those.

    Args:
        objects: M.
        size: points along each side, S.

    Returns:
        (M, S, S) metres; 0 off the map.
    """
    boxes = objects.boxes2d
    points = _grid(boxes, size)
    # (M, S, S, M): whether a point of the first lies in the box of the last.
    point = points[..., None, :]
    holds = ((point >= boxes[:, :2]) & (point < boxes[:, 2:])).all(dim=-1)
    return _nearest(torch.where(holds, objects.depth, torch.inf), points, objects)


def surface_depth_in_boxes(objects: ObjectTargets, size: int, stride: int) -> Tensor:
    """Depth of the 3D boxes' surfaces: of the nearest one that the ray through the point meets.

    Args:
        objects: M; those without 3D supervision hide nothing.
        size: points along each side, S.
        stride: input pixels per cell.

    Returns:
        (M, S, S) metres; 0 off the map, and where the ray meets no box.
    """
    points = _grid(objects.boxes2d, size)
    middle = objects.projected_centres[:, None] * stride
    centres = objects.cameras.back_project(middle, objects.depth[:, None]).squeeze(1)
    start, direction = _rays(objects.cameras, (points * stride).flatten(1, 2))
    start, direction = start[:, :, None], direction[:, :, None]
    met = _where_rays_meet(start, direction, centres, objects.dimensions, objects.yaw)
    met = torch.where(objects.has_3d, met, torch.inf)
    return _nearest(met.unflatten(1, (size, size)), points, objects)


def paint_surface_depth(
    boxes2d: Tensor,
    boxes3d: Boxes3D,
    cameras: Camera,
    depth: Tensor,
    image_index: Tensor,
    num_images: int,
    map_size: tuple[int, int],
    stride: int,
) -> Tensor:
    """Map of the depth of the 3D boxes' surfaces: of the nearest one that a cell's ray meets.

    As :func:`qiml.modeling.targets.paint_object_depth`, which paints the whole 2D box with the depth of the
    3D box's centre.

    Args:
        boxes2d: (M, 4) XYXY in cells: what is seen of each object.
        boxes3d: M, in the frame of `cameras`.
        cameras: (M, 3, 4), of each object's input image.
        depth: (M,) metres, what the input shows the 3D boxes' centres at: their own depth, but for crops that
            keep metric depth. Surfaces are scaled alike.
        image_index: (M,) image within the batch.
        num_images, map_size: of the map.
        stride: input pixels per cell.

    Returns:
        (B, H, W) metres; 0 where no ray meets a box.
    """
    index, y, x = cells_in_boxes(boxes2d, map_size).nonzero(as_tuple=True)
    pixels = (torch.stack([x, y], dim=1) + 0.5) * stride
    start, direction = _rays(Camera(cameras.projection[index]), pixels[:, None])
    met = _where_rays_meet(
        start.squeeze(1),
        direction.squeeze(1),
        boxes3d.centres[index],
        boxes3d.dimensions[index],
        boxes3d.yaw[index],
    )
    met = met * (depth / boxes3d.depth)[index]
    return paint_nearest(met, image_index[index], y, x, num_images, map_size)


def _rays(cameras: Camera, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Start and direction of the rays through pixels (M, P, 2): start + z · direction is at depth z."""
    start, ahead = (
        cameras.back_project(pixels, torch.full_like(pixels[..., 0], z)) for z in (0, 1)
    )
    return start, ahead - start


def _where_rays_meet(
    start: Tensor, direction: Tensor, centres: Tensor, dimensions: Tensor, yaw: Tensor
) -> Tensor:
    """z at which rays enter 3D boxes, all broadcast; infinite where they do not."""
    height, width, length = dimensions.unbind(dim=-1)
    half = torch.stack([length, height, width], dim=-1) / 2
    start = _along_sides(start - centres, yaw)
    direction = _along_sides(direction, yaw)
    direction = torch.where(direction.abs() < 1e-9, 1e-9, direction)
    one, other = (-half - start) / direction, (half - start) / direction
    enter = torch.minimum(one, other).amax(dim=-1)
    leave = torch.maximum(one, other).amin(dim=-1)
    return torch.where((enter <= leave) & (enter > 0), enter, torch.inf)


def _along_sides(vectors: Tensor, yaw: Tensor) -> Tensor:
    """Vectors (..., 3) of the camera frame along the length, height and width of boxes."""
    x, y, z = vectors.unbind(dim=-1)
    sine, cosine = yaw.sin(), yaw.cos()
    along, across = cosine * x - sine * z, sine * x + cosine * z
    return torch.stack([along, y.expand_as(along), across], dim=-1)


def _grid(boxes: Tensor, size: int) -> Tensor:
    """(M, S, S, 2) x, y of the middles of the S × S parts of boxes (M, 4), row by row."""
    steps = (torch.arange(size, device=boxes.device) + 0.5) / size
    x = torch.lerp(boxes[:, 0:1], boxes[:, 2:3], steps)
    y = torch.lerp(boxes[:, 1:2], boxes[:, 3:4], steps)
    x, y = torch.broadcast_tensors(x[:, None], y[:, :, None])
    return torch.stack([x, y], dim=-1)


def _nearest(depth: Tensor, points: Tensor, objects: ObjectTargets) -> Tensor:
    """Of (M, S, S, M), infinite where there is nothing, the nearest in the same image; 0 off the map.

    Args:
        depth: of every object at the points of each.
        points: (M, S, S, 2) in cells.
        objects: M.
    """
    if not len(objects):  # amin has no value for it
        return depth.new_zeros(depth.shape[:3])
    index = objects.image_index
    depth = torch.where((index[:, None] == index)[:, None, None], depth, torch.inf).amin(dim=3)
    return torch.where(on_map(points, objects.map_size), depth, 0).nan_to_num(posinf=0.0)
