import torch

from qiml.losses import laplacian_uncertainty_loss
from qiml.losses.reduction import global_mean


def test_masked_elements_do_not_count():
    """Neither in the value nor, however far off, in the gradients."""
    prediction, target = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    log_sigma = torch.tensor([0.5, -200.0, -0.5])  # e^200 is infinite in float32
    mask = torch.tensor([True, False, True])
    inputs = [prediction.requires_grad_(), log_sigma.requires_grad_()]
    loss = laplacian_uncertainty_loss(prediction, target, log_sigma, mask)
    kept = laplacian_uncertainty_loss(prediction[mask], target[mask], log_sigma[mask])
    torch.testing.assert_close(loss, kept)
    for of_mask, of_kept in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(kept, inputs), strict=True
    ):
        torch.testing.assert_close(of_mask, of_kept)


def test_mean_of_nothing_is_zero():
    values = torch.ones(3, requires_grad=True)
    mean = global_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean == 0 and not values.grad.any()
