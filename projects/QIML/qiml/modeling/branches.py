"""Convolutional branches shared by the heads."""

import torch.nn.functional as F
from torch import Tensor, nn

from qiml.modeling.attentive_norm import AttentiveBatchNorm2d
from qiml.modeling.sampling import read_out


def conv_branch(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """`Conv3×3 – ReLU – Conv1×1` with small random weights, the branch of CenterNet's family."""
    return _start_small(
        nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden_channels, out_channels, 1),
    )


def attentive_branch(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """`Conv3×3 – attentive norm – ReLU – Conv1×1` with small random weights, MonoCon's branch."""
    return _start_small(
        nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
        AttentiveBatchNorm2d(hidden_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden_channels, out_channels, 1),
    )


def _start_small(*layers: nn.Module) -> nn.Sequential:
    for conv in (layers[0], layers[-1]):
        nn.init.normal_(conv.weight, std=0.001)
        nn.init.zeros_(conv.bias)
    return nn.Sequential(*layers)


def heatmap_branch(in_channels: int, hidden_channels: int, num_classes: int) -> nn.Sequential:
    """The branch of the heat map: default weights, and a bias that starts every cell at probability 0.1."""
    return _start_as_heatmap(conv_branch(in_channels, hidden_channels, num_classes))


def attentive_heatmap_branch(
    in_channels: int, hidden_channels: int, num_maps: int
) -> nn.Sequential:
    """The same with attentive norm."""
    return _start_as_heatmap(attentive_branch(in_channels, hidden_channels, num_maps))


def _start_as_heatmap(branch: nn.Sequential) -> nn.Sequential:
    for conv in (branch[0], branch[-1]):
        conv.reset_parameters()
    nn.init.constant_(branch[-1].bias, -2.19)
    return branch


def roi_branch(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """`Conv3×3 – BN – ReLU – mean – Conv1×1` from regions (M, C, S, S) to (M, K), the branch of GUPNet."""
    return _start_xavier(
        nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
        RegionBatchNorm2d(hidden_channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        Readout(hidden_channels, out_channels, 1),
        nn.Flatten(),
    )


def grid_branch(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """`Conv3×3 – leaky ReLU – Conv1×1` on regions, an answer a cell: the branch of DID-M3D's depths."""
    return _start_xavier(
        nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        Readout(hidden_channels, out_channels, 1),
    )


def _start_xavier(*layers: nn.Module) -> nn.Sequential:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class Readout(nn.Conv2d):
    """A 1×1 convolution in the weights' precision even under autocast: see :func:`read_out`."""

    def forward(self, input: Tensor) -> Tensor:
        # No convolution to PyTorch: GPUs round what goes into those to ten bits, in float32 as well.
        return read_out(input.permute(0, 2, 3, 1), self).permute(0, 3, 1, 2)


class RegionBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over regions that leaves its statistics alone where a batch has none.

    Their mean over nothing would be NaN, and stay so in the running statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        if len(input):
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def again(self, input: Tensor) -> Tensor:
        """As the forward pass of a batch that has one of its own: the running statistics stay."""
        if not self.training or not len(input):
            return self(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)
