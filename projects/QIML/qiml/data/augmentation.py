"""Image warps drawn from an explicit generator, and their application to pixels."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Warp:
    """How an image becomes the network's input: mirrored first if `flip`, then mapped by `affine`.

    Attributes:
        affine: (2, 3) float64, pixels of the (mirrored) original → pixels of the input.
        flip: whether the original is mirrored.
        magnification: size of things in the input relative to the uncropped input.
        cropped: whether a random crop was drawn, whatever its size.
        shifted: whether a random shift was drawn.
    """

    affine: np.ndarray
    flip: bool = False
    magnification: float = 1.0
    cropped: bool = False
    shifted: bool = False


def centred_affine(
    image_size: tuple[int, int], input_size: tuple[int, int], centre: np.ndarray, scale: float
) -> np.ndarray:
    """The affine that shows a part of the image, keeping the aspect ratio; widths fill the input.

    Source: MonoDLE `lib/datasets/kitti/kitti_utils.py::get_affine_transform` without rotation.

    Args:
        image_size, input_size: (width, height).
        centre: pixel of the image that lands in the input's middle.
        scale: width of the shown part in image widths.
    """
    zoom = input_size[0] / (image_size[0] * scale)
    offset = np.array(input_size) / 2 - zoom * centre
    return np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])


def evaluation_warp(image_size: tuple[int, int], input_size: tuple[int, int]) -> Warp:
    """The warp of evaluation: the whole image width, centred."""
    return Warp(centred_affine(image_size, input_size, np.array(image_size) / 2, scale=1.0))


def random_warp(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    *,
    flip: float,
    crop: float,
    crop_scale: float,
    crop_shift: float,
    shift: float = 0.0,
    shift_pixels: int = 0,
) -> Warp:
    """Random flip and crop, as MonoDLE's `kitti_dataset.py` draws them, and random shift, as MonoCon's code.

    Args:
        rng: the sample's own generator.
        image_size, input_size: (width, height).
        flip, crop, shift: probabilities.
        crop_scale: the shown part is 1 + N(0, 1) · crop_scale wide, clipped at one crop_scale.
        crop_shift: its centre moves by N(0, 1) · crop_shift image sizes, clipped at two.
        shift_pixels: largest shift to either side, in whole pixels of the input.
    """
    mirrored = rng.random() < flip
    cropped = rng.random() < crop
    centre, scale = np.array(image_size) / 2, 1.0
    if cropped:
        scale = 1 + np.clip(rng.standard_normal() * crop_scale, -crop_scale, crop_scale)
        moved = np.clip(rng.standard_normal(2) * crop_shift, -2 * crop_shift, 2 * crop_shift)
        centre = centre + moved * image_size
    affine = centred_affine(image_size, input_size, centre, scale)
    shifted = shift > 0 and rng.random() < shift
    if shifted:
        affine[:, 2] += rng.integers(-shift_pixels, shift_pixels, size=2, endpoint=True)
    return Warp(affine, mirrored, 1 / scale, cropped, shifted)


def warp_image(image: np.ndarray, warp: Warp, input_size: tuple[int, int]) -> np.ndarray:
    """Apply a warp to pixels or to a depth map, bilinear, black (unknown) outside.

    Strong reductions are done in two steps, an area average by a whole factor first: bilinear
    interpolation alone skips pixels and makes distant objects flicker.

    Args:
        image: (H, W, 3) uint8, or (H, W) float32.
        input_size: (width, height) of the result.

    Returns:
        (height, width, 3) uint8, or (height, width) float32.
    """
    affine = warp.affine
    if image.shape[1::-1] == tuple(input_size) and np.array_equal(affine, np.eye(2, 3)):
        return image[:, ::-1].copy() if warp.flip else image
    if warp.flip:
        affine = affine @ np.array([[-1, 0, image.shape[1]], [0, 1, 0], [0, 0, 1]])
    factor = int(1 / abs(affine[0, 0]))
    if factor >= 2:
        height, width = (side // factor for side in image.shape[:2])
        image = cv2.resize(
            image[: height * factor, : width * factor],
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
        affine = affine @ np.diag([factor, factor, 1])
    # Our pixel i covers [i, i + 1]; OpenCV's is the point i, half a pixel further.
    affine = affine.copy()
    affine[:, 2] += affine[:, :2].sum(axis=1) / 2 - 0.5
    return cv2.warpAffine(image, affine, input_size, flags=cv2.INTER_LINEAR)


def photometric_jitter(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Random brightness (±32), contrast and saturation (0.5–1.5), as in SSD and MonoCon, without hue.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8.
    """
    brightness = rng.uniform(-32, 32)
    contrast, saturation = rng.uniform(0.5, 1.5, size=2)
    pixels = image.astype(np.float32) * contrast + brightness
    grey = pixels.mean(axis=2, keepdims=True)
    return np.clip(grey + (pixels - grey) * saturation, 0, 255).astype(np.uint8)


def photometric_distortion(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """SSD's distortion as MonoCon uses it: each part with probability 1/2.

    Brightness (±32), contrast (0.5–1.5; before or after the next two), saturation (0.5–1.5), hue (±18°) and a
    permutation of the channels. Source: Liu et al., SSD (ECCV 2016); MMDetection `PhotoMetricDistortion`,
    whose result is not clipped to [0, 255].

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8.
    """

    def happens() -> bool:
        return rng.random() < 0.5

    pixels = image.astype(np.float32)
    if happens():
        pixels += np.float32(rng.uniform(-32, 32))
    contrast = np.float32(rng.uniform(0.5, 1.5)) if happens() else np.float32(1)
    contrast_first = happens()
    if contrast_first:
        pixels *= contrast
    saturates, turns = happens(), happens()
    if saturates or turns:
        hsv = cv2.cvtColor(np.maximum(pixels, 0), cv2.COLOR_RGB2HSV)
        if saturates:
            hsv[..., 1] *= np.float32(rng.uniform(0.5, 1.5))
        if turns:
            hsv[..., 0] = (hsv[..., 0] + np.float32(rng.uniform(-18, 18))) % 360
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first:
        pixels *= contrast
    if happens():
        pixels = pixels[..., rng.permutation(3)]
    return np.clip(pixels, 0, 255).astype(np.uint8)


PHOTOMETRIC = {"jitter": photometric_jitter, "distortion": photometric_distortion}
"""By the name of INPUT.AUGMENTATION.PHOTOMETRIC_FORM."""


def pad_image(
    image: np.ndarray, input_size: tuple[int, int], colour: tuple[int, int, int] | int
) -> np.ndarray:
    """`image` (H, W, 3), or a map (H, W), in the upper left corner of a canvas of (width, height)."""
    canvas = np.empty((input_size[1], input_size[0], *image.shape[2:]), dtype=image.dtype)
    canvas[:] = colour
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas
