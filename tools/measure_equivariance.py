#!/usr/bin/env python
"""Measure how far steerable convolutions keep what they promise, on images of yours.

Magnify an image, and the answers to it should be those of a smaller scale; steer an ordinary kernel, and the
answers should be its own. Printed are the parts of the answers (root mean square) by which they are not.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from qiml.data.images import read_image
from qiml.errors import DatasetError, exit_on_error
from qiml.modeling.steerable_conv import SteerableConv2d, fit_answers, fit_middle

SCALES = (0.83, 0.9, 1.0)
KERNELS = 16  # random ones, as a network starts from
BORDER = 12  # pixels left out, where kernels reach out of the image

EXAMPLE = """\
example:
  python tools/measure_equivariance.py datasets/kitti/training/image_2/00000[0-3].png
"""


@dataclass(frozen=True)
class Errors:
    """Relative errors of answers.

    Attributes:
        shift: of an image magnified from the smallest scale to the largest, to the largest scale's kernel.
        unsteered: to the smallest scale's kernel, which is not steered.
        fit: of all scales' kernels, fitted to an ordinary one, to the images themselves.
    """

    shift: float
    unsteered: float
    fit: float


def measure(images: list[Tensor], size: int, official: bool) -> Errors:
    """Random kernels on images (3, H, W), seen at half their size.

    All are fitted by our rule when shifts are measured, so that they are the same ones but for their scales.
    """
    torch.manual_seed(0)
    convolution = SteerableConv2d(
        3, KERNELS, size, scales=SCALES, lifting=True, official=official
    ).requires_grad_(False)
    kernel = torch.randn(convolution.ordinary_shape)
    factor, squares = SCALES[-1] / SCALES[0], torch.zeros(3)
    norms = torch.zeros(2)
    for image in images:
        convolution.weight.copy_(fit_answers(kernel, convolution.basis))
        answers, magnified = (convolution(_seen(image, factor=f)) for f in (1.0, factor))
        expected = _magnified(answers[:1], factor)
        differences = magnified[-1:] - expected, magnified[:1] - expected
        fit = fit_middle if official else fit_answers
        convolution.weight.copy_(fit(kernel, convolution.basis))
        seen = _seen(image, factor=1.0)
        ordinary = F.conv2d(seen, kernel, padding=size // 2).expand(len(SCALES), -1, -1, -1)
        differences = *differences, convolution(seen) - ordinary
        squares += torch.stack([_energy(difference) for difference in differences])
        norms += torch.stack([_energy(expected), _energy(ordinary)])
    return Errors(*(squares / norms[[0, 0, 1]]).sqrt().tolist())


def _energy(answers: Tensor) -> Tensor:
    return answers[..., BORDER:-BORDER, BORDER:-BORDER].square().sum()


def _seen(image: Tensor, factor: float) -> Tensor:
    """(1, 3, H/2, W/2): the image at half its size, then magnified about its middle.

    Blurred before, the same for all factors, so that all see the same continuous picture.
    """
    height, width = image.shape[1:]
    blur = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / 2)
    blur = torch.outer(blur, blur) / blur.sum() ** 2
    smooth = F.conv2d(image[:, None], blur[None, None], padding=4).transpose(0, 1)
    return _sample(smooth, (height // 2, width // 2), pixels=2 / factor)


def _magnified(answers: Tensor, factor: float) -> Tensor:
    return _sample(answers, answers.shape[-2:], pixels=1 / factor)


def _sample(maps: Tensor, size: tuple[int, int], pixels: float) -> Tensor:
    """Maps of another size whose pixels are so many of theirs apart, about the middle."""
    y, x = (
        (torch.arange(n) - (n - 1) / 2) * pixels / ((m - 1) / 2)
        for n, m in zip(size, maps.shape[-2:], strict=True)
    )
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    return F.grid_sample(maps, grid, mode="bicubic", align_corners=True)


def read(path: Path) -> Tensor:
    """(3, H, W) of about unit variance.

    Raises:
        DatasetError: no such file, or no image large enough.
    """
    image = torch.tensor(read_image(path)).permute(2, 0, 1)
    if min(image.shape[1:]) < 8 * BORDER:
        raise DatasetError(
            path,
            found=f"{image.shape[2]}×{image.shape[1]} pixels",
            expected=f"at least {8 * BORDER} a side",
            mend="give photographs",
        )
    return (image.float() - 110) / 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    arguments = parser.parse_args()
    with exit_on_error():
        images = [read(path) for path in arguments.images]
        print(f"{'kernels':24}{'magnified':>10}{'not steered':>13}{'fitted':>9}")
        for size in (3, 7):
            for official in (False, True):
                errors = measure(images, size, official)
                name = f"{size}×{size}, {'official' if official else 'ours'}"
                print(f"{name:24}{errors.shift:10.3f}{errors.unsteered:13.3f}{errors.fit:9.3f}")


if __name__ == "__main__":
    main()
