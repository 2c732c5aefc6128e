import pytest
import torch
import torch.nn.functional as F

from qiml.modeling.branches import conv_branch, grid_branch, roi_branch
from qiml.modeling.sampling import apply_at_windows, gather_windows, pooled_descriptors

HEIGHT, WIDTH = 6, 9


@pytest.fixture
def features():
    return torch.randn(2, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def everywhere():
    """(image_index, cells) of every cell of both images."""
    image, row, column = torch.meshgrid(
        torch.arange(2), torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij"
    )
    return image.flatten(), torch.stack([column, row], dim=-1).reshape(-1, 2)


@pytest.mark.parametrize("size", [1, 3, 5, 15])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_windows_are_the_zero_padded_map(features, everywhere, size, memory_format):
    """Also windows larger than the map."""
    image_index, cells = everywhere
    windows = gather_windows(
        features.contiguous(memory_format=memory_format), image_index, cells, size
    )
    padded = F.pad(features, [size // 2] * 4)
    for window, image, (column, row) in zip(windows, image_index, cells, strict=True):
        expected = padded[image, :, row : row + size, column : column + size]
        assert torch.equal(window, expected)


@pytest.mark.parametrize("size", [3, 5])
def test_descriptors_equal_average_pooling(features, everywhere, size):
    """The official code's `avg_pool2d(…, 5, stride=1, padding=2)`, read at cells."""
    image_index, cells = everywhere
    pooled = F.avg_pool2d(features, size, stride=1, padding=size // 2)
    expected = pooled[image_index, :, cells[:, 1], cells[:, 0]]
    torch.testing.assert_close(pooled_descriptors(features, image_index, cells, size), expected)


def test_descriptors_carry_the_gradient_of_average_pooling(features):
    image_index, cells = torch.tensor([0, 0, 1]), torch.tensor([[0, 0], [1, 1], [8, 5]])
    gradients = []
    for read in (
        lambda x: pooled_descriptors(x, image_index, cells, 5),
        lambda x: F.avg_pool2d(x, 5, 1, 2)[image_index, :, cells[:, 1], cells[:, 0]],
    ):
        leaf = features.clone().requires_grad_()
        read(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_descriptors_of_half_precision_are_float32(features):
    """Pooled in float32 too: the sum of 25 bfloat16 numbers would lose a digit."""
    half = features.bfloat16()
    image_index, cells = torch.tensor([1]), torch.tensor([[4, 3]])
    descriptors = pooled_descriptors(half, image_index, cells, 5)
    assert descriptors.dtype == torch.float32
    expected = half.float()[1, :, 1:6, 2:7].mean(dim=(1, 2))
    torch.testing.assert_close(descriptors[0], expected)


def test_branch_at_windows_equals_the_dense_map(features, everywhere):
    branch = conv_branch(4, 8, 3)
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter)
    at_cells = apply_at_windows([branch], gather_windows(features, *everywhere, size=3))[0]
    dense = branch(features).permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(at_cells, dense, rtol=1e-5, atol=1e-5)


def test_answers_are_not_rounded_to_half_precision(features, everywhere):
    """Of the region heads, too; their hidden layers are in half precision."""
    with torch.autocast("cpu", torch.bfloat16):
        windows = gather_windows(features, *everywhere, size=3)
        branches = roi_branch(4, 8, 3).eval(), grid_branch(4, 8, 3)
        answers = apply_at_windows([conv_branch(4, 8, 3)], windows) + [b(windows) for b in branches]
    for answer in answers:
        assert answer.dtype == torch.float32
        assert (answer.bfloat16().float() != answer).float().mean() > 0.9


def test_no_objects(features):
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
    assert gather_windows(features, *nothing, size=3).shape == (0, 4, 3, 3)
    assert pooled_descriptors(features, *nothing, size=5).shape == (0, 4)
    branch = conv_branch(4, 8, 3)
    assert apply_at_windows([branch], gather_windows(features, *nothing, size=3))[0].shape == (0, 3)
