"""Convolutional branches shared by the heads."""

from torch import nn


def conv_branch(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """`Conv3×3 – ReLU – Conv1×1` with small random weights, the branch of CenterNet's family."""
    branch = nn.Sequential(
        nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden_channels, out_channels, 1),
    )
    for conv in (branch[0], branch[2]):
        nn.init.normal_(conv.weight, std=0.001)
        nn.init.zeros_(conv.bias)
    return branch


def heatmap_branch(in_channels: int, hidden_channels: int, num_classes: int) -> nn.Sequential:
    """The branch of the heat map: default weights, and a bias that starts every cell at probability 0.1."""
    branch = conv_branch(in_channels, hidden_channels, num_classes)
    for conv in (branch[0], branch[2]):
        conv.reset_parameters()
    nn.init.constant_(branch[2].bias, -2.19)
    return branch
