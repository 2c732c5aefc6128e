"""Scale-equivariant steerable convolution: one set of weights, a kernel for every scale.

A kernel is a weighted sum of Hermite polynomials under a Gaussian, with the same weights whatever the width σ
of that Gaussian. An image magnified by s answers the kernel of s·σ as the image itself answers that of σ: to
magnify the image is to shift the answers along the scales.

Scales lie in the batch, one after the other, (S·B, C, H, W), so that norms, 1×1 convolutions and pooling work
on them as on images.

Source: Sosnovik et al., Scale-Equivariant Steerable Networks (ICLR 2020), its basis A without interscale
connections; official code of DEVIANT `lib/projective/ses_{basis,conv}.py`, `sesn_utils.py`.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NEIGHBOUR_CORRELATION = 0.7
"""Of what convolutions see at neighbouring pixels. Measured in a trained detector: 0.97 in the image, 0.7
after the first layer, 0.4 after the last."""


def lift(x: Tensor, num_scales: int) -> Tensor:
    """(B, C, H, W) to (S·B, C, H, W): the same on every scale."""
    return torch.cat([x] * num_scales)


def max_over_scales(x: Tensor, num_scales: int) -> Tensor:
    """(S·B, C, H, W) to (B, C, H, W); of scales that tie, the first learns."""
    return _MaxOverScales.apply(x, num_scales)


class _MaxOverScales(torch.autograd.Function):
    """A quarter of the time of `torch.maximum`'s own gradient, which halves that of ties in many passes."""

    @staticmethod
    def forward(ctx, x: Tensor, num_scales: int) -> Tensor:
        # `amax` over a fifth dimension would lose the channels-last layout.
        largest = functools.reduce(torch.maximum, x.chunk(num_scales))
        ctx.num_scales = num_scales
        ctx.save_for_backward(x, largest)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x, largest = ctx.saved_tensors
        of_x = torch.empty_like(x)
        taken = torch.zeros_like(largest, dtype=torch.bool)
        for scale, of_scale in zip(
            x.chunk(ctx.num_scales), of_x.chunk(ctx.num_scales), strict=True
        ):
            wins = (scale == largest) > taken  # and not taken
            torch.mul(grad, wins, out=of_scale)
            taken |= wins
        return of_x, None


def hermite_basis(
    kernel_size: int, scales: Sequence[float], order: int, *, official: bool = False
) -> Tensor:
    """Products of Hermite polynomials of degree < `order` in x and y, under Gaussians of every scale.

    Kernels are too small for them: at the border of 5 pixels, x² − 1 under a Gaussian of σ = 1 is still
    40 % of what it is in the middle. So they are not cut off there, but replaced by what answers most like
    them; and every function has norm 1 at the smallest scale.

    Args:
        kernel_size: side K of the kernels, odd.
        scales: widths σ of the Gaussians in pixels, smallest first.
        order: number of polynomials in each direction.
        official: cut off, smaller scales perhaps a pixel earlier; and not normalised.

    Returns:
        (order², S, K, K) float32.
    """
    lines = np.zeros((len(scales), kernel_size, order))
    for line, scale in zip(lines, scales, strict=True):
        if official:
            reach = int(kernel_size * scale / max(scales)) // 2
            inside = slice(kernel_size // 2 - reach, kernel_size // 2 + reach + 1)
            x = np.arange(-reach, reach + 1) / scale
            polynomials = np.polynomial.hermite_e.hermevander(x, order - 1)
            line[inside] = polynomials * np.exp(-(x[:, None] ** 2) / 2) / scale
        else:
            line[:] = _closest_answers(kernel_size, scale, order)
    basis = np.einsum("sxi,syj->ijsyx", lines, lines)
    if not official:
        basis /= np.linalg.norm(basis[:, :, :1], axis=(3, 4), keepdims=True)
    return torch.tensor(basis.reshape(order**2, *basis.shape[2:]), dtype=torch.float32)


def _closest_answers(kernel_size: int, scale: float, order: int) -> np.ndarray:
    """Kernels (K, order) of a line that answer most like the whole, continuous Hermite functions.

    Least squares over the frequencies of lines whose neighbouring pixels correlate.
    """
    omega = np.linspace(-np.pi, np.pi, 4096, endpoint=False)[:, None]
    amplitude = np.abs(1 - NEIGHBOUR_CORRELATION * np.exp(1j * omega)) ** -1
    # Of a Hermite function of degree n the Fourier transform is (−iω)ⁿ times that of the Gaussian.
    wanted = (-1j * scale * omega) ** np.arange(order) * np.exp(-((scale * omega) ** 2) / 2)
    wanted *= np.sqrt(2 * np.pi)
    kernels = np.exp(-1j * omega * (np.arange(kernel_size) - kernel_size // 2))
    kernels, wanted = (
        np.concatenate([y.real, y.imag]) for y in (kernels * amplitude, wanted * amplitude)
    )
    return np.linalg.lstsq(kernels, wanted, rcond=None)[0]


def fit_answers(kernel: Tensor, basis: Tensor) -> Tensor:
    """Weights whose kernel of the smallest scale answers most like an ordinary one, whatever lies around it.

    Least squares over images whose neighbouring pixels correlate by `NEIGHBOUR_CORRELATION`, so that what
    differs most between kernels matters least in what they see.

    Args:
        kernel: (O, I, k, k).
        basis: (k², S, K, K), K ≥ k.

    Returns:
        (O, I, k²).
    """
    margin = (basis.shape[-1] - kernel.shape[-1]) // 2
    wanted = F.pad(kernel.double(), [margin] * 4).flatten(2)
    rows = torch.arange(basis.shape[-1], dtype=torch.float64)
    line = NEIGHBOUR_CORRELATION ** (rows[:, None] - rows).abs()
    root = torch.linalg.cholesky(torch.kron(line, line)).to(wanted.device)
    functions = basis[:, 0].flatten(1).double() @ root
    return (wanted @ root @ torch.linalg.pinv(functions)).to(kernel.dtype)


def fit_middle(kernel: Tensor, basis: Tensor) -> Tensor:
    """Weights whose kernel of the largest scale has an ordinary one in its middle (official code).

    Around it lies a border that nothing restrains. Arguments and result as of :func:`fit_answers`.
    """
    size, margin = kernel.shape[-1], (basis.shape[-1] - kernel.shape[-1]) // 2
    middle = basis[:, -1, margin : margin + size, margin : margin + size].flatten(1).double()
    return torch.linalg.solve(middle, kernel.double().flatten(2), left=False).to(kernel.dtype)


class SteerableConv2d(nn.Module):
    """In place of a k×k convolution: k² weights steer a kernel of (k + 2)×(k + 2) for each of S scales.

    Args:
        in_channels, out_channels, stride, groups: of the ordinary convolution, which has no bias.
        size: its k.
        scales: widths of the Gaussians in pixels, smallest first.
        lifting: the input has no scales: (B, C, H, W) instead of (S·B, C, H, W).
        official: kernels, and their fit to ordinary ones, as in DEVIANT's code. A checkpoint brings its own
            basis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        scales: Sequence[float],
        stride: int = 1,
        groups: int = 1,
        lifting: bool = False,
        official: bool = False,
    ):
        super().__init__()
        self.size, self.stride, self.groups = size, stride, groups
        self.lifting, self.official = lifting, official
        basis = hermite_basis(size + 2, scales, size, official=official)
        self.register_buffer("basis", basis)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, size**2))
        self._kept: tuple | None = None
        self.reset_parameters()

    @property
    def ordinary_shape(self) -> torch.Size:
        """(O, I, k, k) of the ordinary kernel."""
        return torch.Size((*self.weight.shape[:2], self.size, self.size))

    def reset_parameters(self) -> None:
        """Steer the kernels that an ordinary convolution in a network of ReLUs starts from."""
        kernel = self.weight.new_empty(self.ordinary_shape)
        nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")
        with torch.no_grad():
            self.weight.copy_(self.fit(kernel))

    def fit(self, kernel: Tensor) -> Tensor:
        """Weights (O, I, k²) that take the place of an ordinary kernel (O, I, k, k)."""
        return (fit_middle if self.official else fit_answers)(kernel, self.basis)

    def forward(self, x: Tensor) -> Tensor:
        """(S·B, C, H, W), or (B, C, H, W) to be lifted, to (S·B, C', H', W')."""
        kernels = self.kernels()
        parts = [x] * len(kernels) if self.lifting else x.chunk(len(kernels))
        return torch.cat([self.answer(y, k) for y, k in zip(parts, kernels, strict=True)])

    def answer(self, x: Tensor, kernel: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W') by one of :meth:`kernels`."""
        padding = self.basis.shape[-1] // 2
        return F.conv2d(x, kernel, None, self.stride, padding, groups=self.groups)

    def kernels(self) -> list[Tensor]:
        """The kernel (O, I, K, K) of every scale.

        Composed anew where weights need gradients: once in a training step. Otherwise kept until weights or
        basis are changed, replaced, loaded or moved, autocast's dtype changes, or the mode is set.
        """
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return self._compose()
        device = self.weight.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self.weight.dtype
        sources = self.weight, self.basis
        # The sources are kept as well: nothing else can have their ids.
        state = dtype, *((id(t), t._version, t.data_ptr()) for t in sources)
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = state, sources, [kernel.to(dtype) for kernel in self._compose()]
        return self._kept[2]

    def _compose(self) -> list[Tensor]:
        size = self.basis.shape[-1]
        with torch.autocast(self.weight.device.type, enabled=False):
            return [
                (self.weight @ functions.flatten(1)).unflatten(2, (size, size))
                for functions in self.basis.unbind(1)
            ]

    def train(self, mode: bool = True) -> "SteerableConv2d":
        self._kept = None
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        inputs, outputs = self.weight.shape[1] * self.groups, self.weight.shape[0]
        return f"{inputs}, {outputs}, size={self.size}, scales={self.basis.shape[1]}, stride={self.stride}"
