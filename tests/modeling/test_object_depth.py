import pytest
import torch

from qiml.losses import laplacian_uncertainty_loss
from qiml.modeling.decode import inverse_sigmoid_depth
from qiml.modeling.object_depth import ObjectDepthHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = ObjectDepthHead(8, hidden_channels=16, weight=0.5)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


@pytest.fixture
def features():
    return torch.randn(2, 8, 10, 12, generator=torch.manual_seed(1)).requires_grad_()


def gradients(loss, head, features):
    return torch.autograd.grad(loss, [features, *head.parameters()])


def test_loss_at_covered_cells_is_that_of_the_whole_map(head, features):
    """Value and gradients; also at the border, where the convolution sees padding."""
    painted = torch.zeros(2, 10, 12)
    painted[0, :4, :5], painted[1, 6:, 7:] = 12.0, 30.0
    depth, log_sigma = head(features).unbind(dim=1)
    covered = painted > 0
    expected = 0.5 * laplacian_uncertainty_loss(
        inverse_sigmoid_depth(depth[covered]), painted[covered], log_sigma[covered]
    )
    loss = head.loss(features, painted)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, head, features), gradients(expected, head, features))


def test_nothing_painted_costs_nothing(head, features):
    loss = head.loss(features, torch.zeros(2, 10, 12))
    assert loss == 0
    assert all(not g.any() for g in gradients(loss, head, features))
